from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from busi_monai.metrics import (
    negative_predictive_value,
    positive_predictive_value,
    sensitivity_threshold,
)

RANDOM = np.random.default_rng(1)


@pytest.mark.parametrize("sensitivity", [0.5, 0.9, 0.95, 0.98, 1.0])
@pytest.mark.parametrize("positives", [1, 19, 20, 100])
def test_the_highest_threshold_that_reaches_the_sensitivity(
    sensitivity: float, positives: int
) -> None:
    positive = np.r_[np.ones(positives), np.zeros(40)]
    scores = RANDOM.random(len(positive)) + 0.3 * positive
    threshold = sensitivity_threshold(positive, scores, sensitivity)
    assert (scores[:positives] >= threshold).mean() >= sensitivity
    assert (scores[:positives] > threshold).mean() < sensitivity


def test_it_is_a_point_of_scikit_learns_roc_curve() -> None:
    positive = RANDOM.random(200) < 0.3
    scores = np.round(RANDOM.random(200) + 0.4 * positive, 2)
    _, true_rate, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    threshold = sensitivity_threshold(positive, scores, 0.9)
    place = int(np.flatnonzero(true_rate >= 0.9)[0])
    assert threshold == thresholds[place]


def test_predictive_values_follow_from_counting_people() -> None:
    sick, healthy = 1000 * 0.2, 1000 * 0.8
    found, alarmed = 0.9 * sick, 0.25 * healthy
    assert positive_predictive_value(0.9, 0.75, 0.2) == pytest.approx(found / (found + alarmed))
    cleared, missed = healthy - alarmed, sick - found
    assert negative_predictive_value(0.9, 0.75, 0.2) == pytest.approx(cleared / (cleared + missed))


def test_what_is_undefined_is_nan() -> None:
    assert math.isnan(float(positive_predictive_value(0.0, 1.0, 0.1)))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one positive"):
        sensitivity_threshold([0], [0.5], 0.9)
    with pytest.raises(ValueError, match="sensitivity must lie"):
        sensitivity_threshold([1], [0.5], 1.5)
    with pytest.raises(ValueError, match="prevalence must lie"):
        positive_predictive_value(0.9, 0.9, 0)
    with pytest.raises(ValueError, match="two"):
        sensitivity_threshold([1, 0], [0.5], 0.5)
