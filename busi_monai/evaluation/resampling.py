"""Bootstrap over groups by weights: a resample counts each image as often as it was drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from busi_monai.metrics.classification import weighted_mean

__all__ = [
    "CONFIDENCE",
    "ResampledFigure",
    "group_weights",
    "mean_figure",
    "percentile_interval",
    "plain_number",
    "resampled",
    "with_ones",
]

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class ResampledFigure:
    """A figure with its value in every resample.

    Attributes:
        value: of the images as they are; NaN if it is undefined.
        samples: (R,) values, NaN where undefined.
        n: number of images that it is computed on.
    """

    value: float
    samples: Floats
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return value, low, high and n as plain JSON values, ``None`` for what is undefined."""
        if math.isnan(self.value):
            return {"value": None, "low": None, "high": None, "n": self.n}
        low, high = percentile_interval(self.samples, CONFIDENCE)
        plain = {"value": self.value, "low": low, "high": high}
        return {**{name: plain_number(value) for name, value in plain.items()}, "n": self.n}


def plain_number(value: float, digits: int = 6) -> float | None:
    """Return a number as JSON has it, ``None`` for NaN."""
    return None if math.isnan(value) else round(float(value), digits)


def group_weights(groups: Sequence[object], resamples: int, seed: int) -> Floats:
    """Draw groups with replacement, as many as there are, and count how often each image came.

    Args:
        groups: (N,) one group name for each image.
        resamples: number R of resamples.
        seed: of the draws.

    Returns:
        (R, N) counts as floats.

    Examples:
        >>> group_weights(["a", "a", "b"], 2, seed=1)
        array([[1., 1., 1.],
               [2., 2., 0.]])
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    count = int(codes.max()) + 1 if len(codes) else 0
    if not count:
        return np.zeros((resamples, 0))
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return draws[:, codes].astype(float)


def percentile_interval(samples: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of (R,) resampled figures, NaN ones left out.

    Where more than half of the resamples leave the figure undefined, there is no interval: NaN.
    """
    defined = samples[~np.isnan(samples)]
    if len(defined) * 2 <= len(samples):
        return float("nan"), float("nan")
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def mean_figure(weights: Floats, values: Floats) -> ResampledFigure:
    """Return the mean of (N,) values that are not NaN, as they are and in every resample (R, N)."""
    defined = ~np.isnan(values)
    value = float(values[defined].mean()) if defined.any() else math.nan
    return ResampledFigure(value, weighted_mean(weights, values), int(defined.sum()))


def with_ones(weights: Floats) -> Floats:
    """Return (R, N) weights below a row of ones, which stands for the images as they are."""
    return np.vstack([np.ones(weights.shape[1]), weights])


def resampled(values: Floats, n: int) -> ResampledFigure:
    """Return a figure of (1 + R,) values that were computed by ``with_ones``."""
    return ResampledFigure(float(values[0]), values[1:], n)
