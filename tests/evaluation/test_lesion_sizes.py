from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from busi_monai.evaluation import evaluate_predictions
from busi_monai.evaluation.lesion_sizes import LESION_SIZES, batch_average_figures
from busi_monai.metrics import segmentation_scores


def test_every_lesion_has_one_size_and_normals_have_none(table: pd.DataFrame) -> None:
    lesion = table["true_lesion_pixels"] > 0
    sizes = np.random.default_rng(0).uniform(0.001, 0.5, len(table))
    sized = table.assign(true_lesion_fraction=np.where(lesion, sizes, 0.0))
    found = evaluate_predictions(sized, resamples=50)["per_size"]
    assert sum(figures["n"] for figures in found.values()) == lesion.sum()
    small = sized[lesion & (sized["true_lesion_fraction"] < 0.02)]
    assert found["small"]["dice"]["value"] == pytest.approx(small["dice"].mean(), abs=1e-6)
    assert found["small"]["found"]["value"] == pytest.approx((small["dice"] > 0).mean(), abs=1e-6)
    assert found["large"]["iou"]["n"] == (lesion & (sized["true_lesion_fraction"] >= 0.1)).sum()


def test_the_sizes_leave_no_gap() -> None:
    bounds = [side for pair in LESION_SIZES.values() for side in pair]
    assert bounds[1:-1:2] == bounds[2::2] and bounds[0] == 0 and bounds[-1] > 1


def test_a_table_without_sizes_has_no_such_figures(table: pd.DataFrame) -> None:
    assert "per_size" not in evaluate_predictions(table, resamples=5)


def a_row(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {
        "dice": segmentation_scores(predicted, true)["dice"],
        "lesion_fraction": predicted.mean(),
        "true_lesion_fraction": true.mean(),
    }


def test_one_batch_pools_the_pixels_of_its_images() -> None:
    draw = np.random.default_rng(0)
    true = draw.random((6, 20, 30)) < np.linspace(0.05, 0.8, 6)[:, None, None]
    predicted = true ^ (draw.random(true.shape) < 0.1)
    rows = pd.DataFrame([a_row(p, t) for p, t in zip(predicted, true, strict=True)])
    found = batch_average_figures(rows, batch_size=6, orders=3)
    both, either = (predicted & true).sum(), (predicted | true).sum()
    assert found["iou"]["value"] == pytest.approx(both / either)
    assert found["f1"]["value"] == pytest.approx(2 * both / (predicted.sum() + true.sum()))
    assert found["f1"]["n"] == 6


def test_batches_of_one_are_the_means_over_images() -> None:
    rows = pd.DataFrame(
        {
            "dice": [0.5, 0.8, 1.0, 0.0, np.nan, 0.3],
            "lesion_fraction": [0.1, 0.3, 0.0, 0.2, 0.2, 0.1],
            "true_lesion_fraction": [0.2, 0.3, 0.0, 0.0, 0.0, np.nan],
        }
    )
    found = batch_average_figures(rows, batch_size=1, orders=2)
    assert found["f1"]["value"] == pytest.approx((0.5 + 0.8 + 1.0 + 0.0) / 4)
    assert found["f1"]["n"] == 4
    assert found["f1"]["low"] == pytest.approx(found["f1"]["high"])


def test_a_smaller_last_batch_weighs_by_its_images() -> None:
    # in any order two share a batch and one is left; unweighted, the one would count for half
    rows = pd.DataFrame(
        {"dice": [0.9, 0.9, 0.0], "lesion_fraction": 0.1, "true_lesion_fraction": 0.1}
    )
    found = batch_average_figures(rows, batch_size=2, orders=20)
    assert found["f1"]["value"] == pytest.approx(0.6)
    with_the_bad_one = (2 * (0.09 / 0.31) + 0.09 / 0.11) / 3  # pixels of 0.1 + 0.1 - both
    without = (2 * (0.18 / 0.22) + 0.0) / 3
    orders = [found["iou"][name] for name in ("low", "high")]
    assert sorted(orders) == pytest.approx(sorted([with_the_bad_one, without]))


def test_large_lesions_outweigh_small_ones() -> None:
    rows = pd.DataFrame(
        {"dice": [0.9, 0.1], "lesion_fraction": [0.4, 0.01], "true_lesion_fraction": [0.4, 0.01]}
    )
    assert batch_average_figures(rows)["f1"]["value"] > 0.85


def test_it_stands_in_the_metrics_where_the_table_tells_sizes(table: pd.DataFrame) -> None:
    sized = table.assign(
        lesion_fraction=table["lesion_pixels"] / 1e4,
        true_lesion_fraction=table["true_lesion_pixels"] / 1e4,
    )
    metrics = evaluate_predictions(sized, resamples=5)
    assert metrics["batch_averaged"]["batch_size"] == 8
    assert "batch_averaged" not in evaluate_predictions(table, resamples=5)
