"""Thresholds on a score for a wanted sensitivity, and predictive values at a prevalence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "negative_predictive_value",
    "positive_predictive_value",
    "sensitivity_threshold",
]


def sensitivity_threshold(positive: ArrayLike, scores: ArrayLike, sensitivity: float) -> float:
    """Return the highest threshold that at least this part of the positives reaches.

    Args:
        positive: (N,) bool.
        scores: (N,) float, higher for positives.
        sensitivity: wanted, in (0, 1].

    Raises:
        ValueError: for another range or shape, or without a positive.

    Examples:
        >>> sensitivity_threshold([1, 1, 1, 1, 0], [0.9, 0.8, 0.4, 0.2, 0.3], 0.75)
        0.4
    """
    wanted, values = np.asarray(positive).astype(bool), np.asarray(scores, dtype=float)
    if wanted.ndim != 1 or wanted.shape != values.shape:
        raise ValueError(f"expected two (N,) arrays, got {wanted.shape} and {values.shape}")
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must lie in (0, 1], got {sensitivity}")
    found = np.sort(values[wanted])[::-1]
    if not len(found):
        raise ValueError("a threshold for a sensitivity needs at least one positive")
    # 0.95 · 20 is 19.000000000000004 in binary
    return float(found[math.ceil(round(sensitivity * len(found), 9)) - 1])


def positive_predictive_value(
    sensitivity: ArrayLike, specificity: ArrayLike, prevalence: float
) -> NDArray[np.float64]:
    """Return the part of those called positive who are, at a prevalence; by Bayes' rule.

    Args:
        sensitivity: any shape, in [0, 1].
        specificity: the same shape.
        prevalence: part of positives among those examined, in (0, 1).

    Returns:
        The same shape; NaN where nobody is called positive.

    Raises:
        ValueError: if the prevalence is not in (0, 1).

    Examples:
        >>> float(positive_predictive_value(0.9, 0.8, prevalence=0.1).round(3))
        0.333
    """
    _check_prevalence(prevalence)
    found = np.asarray(sensitivity, dtype=float) * prevalence
    return _part(found, (1 - np.asarray(specificity, dtype=float)) * (1 - prevalence))


def negative_predictive_value(
    sensitivity: ArrayLike, specificity: ArrayLike, prevalence: float
) -> NDArray[np.float64]:
    """Return the part of those called negative who are, at a prevalence; by Bayes' rule.

    Args, returns and errors are those of ``positive_predictive_value``.

    Examples:
        >>> float(negative_predictive_value(0.9, 0.8, prevalence=0.1).round(3))
        0.986
    """
    _check_prevalence(prevalence)
    cleared = np.asarray(specificity, dtype=float) * (1 - prevalence)
    return _part(cleared, (1 - np.asarray(sensitivity, dtype=float)) * prevalence)


def _part(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(right / (right + wrong))


def _check_prevalence(prevalence: float) -> None:
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence must lie between 0 and 1, got {prevalence}")
