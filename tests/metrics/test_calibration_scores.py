from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from busi_monai.cases import CLASSES
from busi_monai.metrics import classification_scores, reliability


def scores_of(true: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Calibration error and Brier score."""
    classes = CLASSES[-np.shape(probabilities)[1] :]
    scores = classification_scores(true, probabilities, true, classes)
    return scores["ece"], scores["brier"]


def _table(n: int, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(n_classes), n)
    return rng.integers(0, n_classes, n), probabilities


TABLES = [
    pytest.param(*_table(n, n_classes, seed), id=f"{n}-{n_classes}-{seed}")
    for n in (1, 40, 500)
    for n_classes in (2, 3)
    for seed in (0, 1)
]


@pytest.mark.parametrize(("true", "probabilities"), TABLES)
def test_calibration_error_equals_a_loop_over_bins(
    true: np.ndarray, probabilities: np.ndarray
) -> None:
    bins = 15
    confidence, choice = probabilities.max(axis=1), probabilities.argmax(axis=1)
    expected = 0.0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = (choice == true)[inside].mean() - confidence[inside].mean()
            expected += inside.mean() * abs(gap)
    assert scores_of(true, probabilities)[0] == pytest.approx(expected)


@pytest.mark.parametrize(("true", "probabilities"), TABLES)
def test_brier_score_equals_independent_computations(
    true: np.ndarray, probabilities: np.ndarray
) -> None:
    expected = 0.0
    for label, row in zip(true, probabilities, strict=True):
        expected += sum((p - (k == label)) ** 2 for k, p in enumerate(row)) / len(true)
    assert scores_of(true, probabilities)[1] == pytest.approx(expected)
    if probabilities.shape[1] == 2:
        binary = brier_score_loss(true, probabilities[:, 1], pos_label=1)
        assert scores_of(true, probabilities)[1] == pytest.approx(2 * binary)


def test_certain_and_right_is_perfect_certain_and_wrong_is_worst() -> None:
    assert scores_of(np.arange(3), np.eye(3)) == (0, 0)
    assert scores_of(np.array([1, 2, 0]), np.eye(3)) == (1, 2)


def test_reliability_bins_hold_every_image_once() -> None:
    true, probabilities = _table(300, 3, 5)
    sorted_in = reliability(true, probabilities, bins=10)
    assert sorted_in.count.sum() == 300
    assert not sorted_in.count[:3].any()
    assert np.isnan(sorted_in.accuracy[:3]).all()
    filled = sorted_in.count > 0
    places = np.arange(10)[filled]
    assert (sorted_in.confidence[filled] > places / 10).all()
    assert (sorted_in.confidence[filled] <= (places + 1) / 10).all()


def test_a_diagram_needs_bins() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        reliability([0], [[1.0, 0.0]], bins=0)
