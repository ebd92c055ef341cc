from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from busi_monai.errors import InputError
from busi_monai.evaluation import evaluate_predictions
from busi_monai.evaluation.malignancy import (
    cross_fitted_thresholds,
    operating_figures,
)
from busi_monai.metrics import sensitivity_threshold


@pytest.fixture
def folded(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(fold=np.arange(len(table)) % 4.0)


def test_no_row_has_a_part_in_its_own_threshold(folded: pd.DataFrame) -> None:
    thresholds = cross_fitted_thresholds(folded, [0.9])["sensitivity_90"]
    for fold in range(4):
        others = folded[folded["fold"] != fold]
        expected = sensitivity_threshold(
            others["true_class"] == "malignant", others["p_malignant"], 0.9
        )
        assert set(thresholds[folded["fold"] == fold]) == {expected}


def test_without_folds_there_are_no_thresholds(table: pd.DataFrame, folded: pd.DataFrame) -> None:
    assert cross_fitted_thresholds(table) == {}
    assert cross_fitted_thresholds(folded[folded["fold"] == 1]) == {}
    one_sided = folded[(folded["true_class"] != "malignant") | (folded["fold"] == 0)]
    assert cross_fitted_thresholds(one_sided) == {}


def test_counts_and_rates_are_those_of_the_table(table: pd.DataFrame) -> None:
    found = evaluate_predictions(table, operating_points={"given": 0.4}, resamples=200)
    point = found["operating_points"]["given"]
    alarmed, malignant = table["p_malignant"] >= 0.4, table["true_class"] == "malignant"
    assert point["missed"] == int((malignant & ~alarmed).sum())
    assert point["false_alarms"] == int((~malignant & alarmed).sum())
    assert point["sensitivity"]["value"] == pytest.approx(alarmed[malignant].mean(), abs=1e-6)
    assert point["specificity"]["value"] == pytest.approx((~alarmed[~malignant]).mean(), abs=1e-6)
    for kind in ("sensitivity", "specificity", "ppv", "npv"):
        assert point[kind]["low"] <= point[kind]["value"] <= point[kind]["high"]
    assert point["thresholds"] == [0.4] and point["prevalence"] == 0.1


def test_a_table_of_folds_is_measured_at_its_own_thresholds(folded: pd.DataFrame) -> None:
    points = evaluate_predictions(folded, operating_points={"given": 0.4}, resamples=20)
    assert set(points["operating_points"]) == {"sensitivity_90", "sensitivity_95", "sensitivity_98"}
    missed = [point["missed"] for point in points["operating_points"].values()]
    assert missed == sorted(missed, reverse=True)
    assert len(points["operating_points"]["sensitivity_90"]["thresholds"]) > 1


def test_predictive_values_are_those_of_the_prevalence(table: pd.DataFrame) -> None:
    weights = np.ones((1, len(table)))
    rare, common = (
        operating_figures(table, weights, {"at": 0.4}, prevalence=part)["at"]["ppv"]["value"]
        for part in (0.01, 0.5)
    )
    assert rare < common
    with pytest.raises(InputError, match="prevalence must lie between 0 and 1, got 1"):
        operating_figures(table, weights, {"at": 0.4}, prevalence=1)


def test_without_malignant_probabilities_there_are_none(table: pd.DataFrame) -> None:
    assert "operating_points" not in evaluate_predictions(table, classes=(), resamples=5)
