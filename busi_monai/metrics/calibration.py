"""Whether class probabilities can be believed, and the temperature that makes them so."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from busi_monai.metrics.checks import check_probabilities

__all__ = [
    "Reliability",
    "fit_temperature",
    "reliability",
    "rescale_probabilities",
]

BINS = 15
TEMPERATURES = (0.05, 20.0)
SMALLEST_PROBABILITY = 1e-12


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
    place = bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            count=count,
            confidence=np.bincount(place, weights=confidence, minlength=bins) / count,
            accuracy=np.bincount(place, weights=correct, minlength=bins) / count,
        )


def bin_of(confidence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Return (N,) bins of equal width over (0, 1], closed on the right."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def fit_temperature(true: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the temperature that makes given probabilities most likely.

    The one number that the class logits are divided by, chosen for the smallest negative
    log-likelihood (Guo et al., ICML 2017, section 4.2), between 0.05 and 20. Above 1, the
    probabilities were too sure. Fit it on images that the network was not trained on.

    Args:
        true: (N,) int true class indices in [0, C).
        probabilities: (N, C) float in [0, 1], each row summing to 1: the softmax of the logits. If
            they were divided by a temperature already, the result is to be multiplied by it.

    Raises:
        ValueError: for another shape or range, or without images.

    Examples:
        >>> sure, right = [[0.9, 0.1]] * 4, [0, 0, 0, 1]  # says 90 %, is right in 75 %
        >>> temperature = fit_temperature(right, sure)
        >>> round(temperature, 3), rescale_probabilities(sure, temperature)[0].round(3)
        (2.0, array([0.75, 0.25]))
    """
    labels, values = check_probabilities(true, probabilities)
    if not len(labels):
        raise ValueError("a temperature cannot be fitted on no image")

    def loss(log_temperature: float) -> float:
        scaled = _log_rescaled(values, math.exp(log_temperature))
        return -float(scaled[np.arange(len(labels)), labels].mean())

    bounds = tuple(math.log(value) for value in TEMPERATURES)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return math.exp(float(found.x))


def rescale_probabilities(probabilities: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Return (N, C) probabilities as if their logits had been divided by a temperature.

    Args:
        probabilities: (N, C) float in [0, 1], each row summing to 1.
        temperature: above 0; above 1 makes less sure. The most probable class stays.

    Raises:
        ValueError: if the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return np.exp(_log_rescaled(np.asarray(probabilities, dtype=np.float64), temperature))


def _log_rescaled(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    logits = np.log(np.clip(probabilities, SMALLEST_PROBABILITY, None)) / temperature
    scaled: NDArray[np.float64] = logits - logsumexp(logits, axis=1, keepdims=True)
    return scaled
