from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from busi_monai.metrics import brier_score, expected_calibration_error, reliability


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


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize(("true", "probabilities"), TABLES)
def test_calibration_error_equals_a_loop_over_bins(
    true: np.ndarray, probabilities: np.ndarray, bins: int
) -> None:
    confidence, choice = probabilities.max(axis=1), probabilities.argmax(axis=1)
    expected = 0.0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = (choice == true)[inside].mean() - confidence[inside].mean()
            expected += inside.mean() * abs(gap)
    assert expected_calibration_error(true, probabilities, bins) == pytest.approx(expected)


@pytest.mark.parametrize(("true", "probabilities"), TABLES)
def test_brier_score_equals_independent_computations(
    true: np.ndarray, probabilities: np.ndarray
) -> None:
    expected = 0.0
    for label, row in zip(true, probabilities, strict=True):
        expected += sum((p - (k == label)) ** 2 for k, p in enumerate(row)) / len(true)
    assert brier_score(true, probabilities) == pytest.approx(expected)
    if probabilities.shape[1] == 2:
        binary = brier_score_loss(true, probabilities[:, 1], pos_label=1)
        assert brier_score(true, probabilities) == pytest.approx(2 * binary)


def test_certain_and_right_is_perfect_certain_and_wrong_is_worst() -> None:
    certain = np.eye(3)
    assert expected_calibration_error([0, 1, 2], certain) == brier_score([0, 1, 2], certain) == 0
    assert expected_calibration_error([1, 2, 0], certain) == 1
    assert brier_score([1, 2, 0], certain) == 2


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


def test_without_images_there_is_no_figure() -> None:
    nothing = np.zeros((0, 3))
    assert math.isnan(expected_calibration_error([], nothing))
    assert math.isnan(brier_score([], nothing))


def test_a_diagram_needs_bins() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        reliability([0], [[1.0, 0.0]], bins=0)
