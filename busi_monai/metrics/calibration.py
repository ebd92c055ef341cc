"""Whether class probabilities can be believed: calibration error, Brier score, reliability."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from busi_monai.metrics.checks import check_probabilities

__all__ = ["Reliability", "brier_score", "expected_calibration_error", "reliability"]

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram's bins of equal width over the confidence, (B,) each.

    Attributes:
        count: images in the bin.
        confidence: mean probability of the most probable class, NaN in an empty bin.
        accuracy: part of the images where it is the true class, NaN in an empty bin.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(true: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> Reliability:
    """Sort images into bins by the probability of their most probable class.

    Args:
        true: (N,) int true class indices in [0, C).
        probabilities: (N, C) float in [0, 1], each row summing to 1.
        bins: number of bins of equal width over (0, 1], closed on the right.

    Raises:
        ValueError: for another shape or range.
    """
    labels, values = check_probabilities(true, probabilities)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence = values.max(axis=1) if len(values) else np.zeros(0)
    correct = values.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            count=count,
            confidence=np.bincount(place, weights=confidence, minlength=bins) / count,
            accuracy=np.bincount(place, weights=correct, minlength=bins) / count,
        )


def expected_calibration_error(
    true: ArrayLike, probabilities: ArrayLike, bins: int = BINS
) -> float:
    """Return the mean gap between confidence and accuracy over bins, weighted by their images.

    Confidence is the probability of the most probable class, whatever thresholds predict, in 15
    bins of equal width (Guo et al., ICML 2017, "On calibration of modern neural networks", eq. 3).
    In [0, 1], 0 is best; NaN without images.

    Args:
        true: (N,) int true class indices in [0, C).
        probabilities: (N, C) float in [0, 1], each row summing to 1.
        bins: number of bins.

    Raises:
        ValueError: for another shape or range.

    Examples:
        >>> expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])
        0.25
    """
    sorted_in = reliability(true, probabilities, bins)
    total = int(sorted_in.count.sum())
    if not total:
        return math.nan
    filled = sorted_in.count > 0
    gaps = np.abs(sorted_in.confidence - sorted_in.accuracy)[filled]
    return float((gaps * sorted_in.count[filled]).sum() / total)


def brier_score(true: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean over images of Σ_c (p_c − y_c)², in [0, 2], 0 is best; NaN without images.

    The form over all classes (Brier 1950, "Verification of forecasts expressed in terms of
    probability"); for two classes it is twice scikit-learn's binary one.

    Args:
        true: (N,) int true class indices in [0, C).
        probabilities: (N, C) float in [0, 1], each row summing to 1.

    Raises:
        ValueError: for another shape or range.

    Examples:
        >>> brier_score([0, 1], [[1.0, 0.0], [0.5, 0.5]])
        0.25
    """
    labels, values = check_probabilities(true, probabilities)
    if not len(labels):
        return math.nan
    hits = np.eye(values.shape[1])[labels]
    return float(((values - hits) ** 2).sum(axis=1).mean())
