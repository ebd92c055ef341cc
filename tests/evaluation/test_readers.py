from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from busi_monai.evaluation import evaluate_predictions, group_weights
from busi_monai.evaluation.malignancy import BIRADS_ORDER, birads_figures


@pytest.fixture
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    malignant = rng.random(60) < 0.4
    rank = np.clip(rng.normal(2 + 3 * malignant, 1.5), 0, 7).astype(int)
    return pd.DataFrame(
        {
            "true_class": np.where(malignant, "malignant", "benign"),
            "p_malignant": np.clip(0.3 + 0.3 * malignant + rng.normal(0, 0.2, 60), 0, 1),
            "birads": [BIRADS_ORDER[index] for index in rank],
            "group": [f"patient {index // 2}" for index in range(60)],
        }
    )


def weights(rows: pd.DataFrame, resamples: int = 200) -> np.ndarray:
    return group_weights(rows["group"].tolist(), resamples, 0)


def test_figures_are_those_of_scikit_learn(rows: pd.DataFrame) -> None:
    found = birads_figures(rows, weights(rows))
    malignant = rows["true_class"] == "malignant"
    rank = rows["birads"].map(BIRADS_ORDER.index)
    theirs = roc_auc_score(malignant, rank)
    network = roc_auc_score(malignant, rows["p_malignant"])
    assert found["auc"]["value"] == pytest.approx(theirs, abs=1e-6)
    assert found["network_auc"]["value"] == pytest.approx(network, abs=1e-6)
    assert found["difference"]["value"] == pytest.approx(network - theirs, abs=2e-6)
    assert found["sensitivity"]["value"] == pytest.approx((rank[malignant] >= 3).mean(), abs=1e-6)
    assert found["specificity"]["value"] == pytest.approx((rank[~malignant] < 3).mean(), abs=1e-6)
    assert found["sensitivity"]["n"] + found["specificity"]["n"] == 60
    for figure in found.values():
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_images_without_a_category_are_left_out(rows: pd.DataFrame) -> None:
    kept = rows.iloc[:40]
    others = rows.iloc[40:].assign(birads=["", "0", "6", "x"] * 5)
    table = pd.concat([kept, others], ignore_index=True)
    found = birads_figures(table, weights(table))
    assert found["auc"]["n"] == 40
    alone = birads_figures(kept, weights(kept))
    assert found["auc"]["value"] == alone["auc"]["value"]


def test_whole_categories_are_read_as_numbers_too(rows: pd.DataFrame) -> None:
    kept = rows[rows["birads"].str.len() == 1]
    as_read = kept.assign(birads=kept["birads"].astype(float))
    assert birads_figures(as_read, weights(kept)) == birads_figures(kept, weights(kept))


def test_a_table_without_categories_has_no_such_figures(rows: pd.DataFrame) -> None:
    assert birads_figures(rows.drop(columns="birads"), weights(rows)) == {}
    assert birads_figures(rows.assign(birads=""), weights(rows)) == {}
    assert birads_figures(rows, weights(rows), classes=("normal", "benign")) == {}


def test_an_evaluation_holds_them(rows: pd.DataFrame) -> None:
    table = rows.assign(
        id=rows.index.astype(str),
        predicted_class="benign",
        p_benign=1 - rows["p_malignant"],
        p_normal=0.0,
        lesion_pixels=4,
        error="",
    )
    metrics = evaluate_predictions(table, resamples=20)
    assert metrics["birads"]["auc"]["n"] == 60
