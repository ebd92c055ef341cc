from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from busi_monai.evaluation import evaluate_predictions
from busi_monai.evaluation.lesion_sizes import LESION_SIZES


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
