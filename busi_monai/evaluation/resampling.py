"""Bootstrap over groups, done with weights: a resample counts each image as often as it was drawn.

Every function takes weights (R, N), one row for each resample, and returns (R,) figures; weights of
one give the figure itself. A weighted figure equals that of the table with rows repeated, so a
thousand resamples cost a few matrix products rather than a thousand evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import CLASSES
from busi_monai.metrics.calibration import BINS

__all__ = [
    "CONFIDENCE",
    "ResampledFigure",
    "group_weights",
    "mean_figure",
    "percentile_interval",
    "weighted_auc",
    "weighted_average_precision",
    "weighted_calibration_error",
    "weighted_classification_scores",
    "weighted_confusion",
    "weighted_mean",
]

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval."""

_, BENIGN, MALIGNANT = CLASSES


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
        return {"value": _plain(self.value), "low": _plain(low), "high": _plain(high), "n": self.n}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


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


def weighted_mean(weights: Floats, values: Floats) -> Floats:
    """Return the mean of the values that are not NaN, NaN where none is left."""
    defined = ~np.isnan(values)
    return _divide(weights[:, defined] @ values[defined], weights[:, defined].sum(axis=1))


def weighted_confusion(
    weights: Floats, true: NDArray[np.integer], predicted: NDArray[np.integer], classes: int
) -> Floats:
    """Return (R, C, C) counts, true class by predicted class."""
    cells = np.zeros((len(true), classes * classes))
    cells[np.arange(len(true)), true * classes + predicted] = 1
    return (weights @ cells).reshape(-1, classes, classes)


def weighted_auc(weights: Floats, scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Return the area under the ROC curve by rank sums, ties counting half.

    Args:
        weights: (R, N).
        scores: (N,), higher for positives.
        positive: (N,).

    Examples:
        >>> weighted_auc(np.ones((1, 4)), np.array([.1, .4, .35, .8]), np.array([0, 0, 1, 1]) > 0)
        array([0.75])
    """
    positives, negatives = _by_score(weights, scores, positive)
    below = np.cumsum(negatives, axis=1) - negatives
    won = (positives * (below + negatives / 2)).sum(axis=1)
    return _divide(won, positives.sum(axis=1) * negatives.sum(axis=1))


def weighted_average_precision(
    weights: Floats, scores: Floats, positive: NDArray[np.bool_]
) -> Floats:
    """Return the average precision: precisions weighted by the increase in recall."""
    positives, negatives = (part[:, ::-1] for part in _by_score(weights, scores, positive))
    found = np.cumsum(positives, axis=1)
    precision = _divide(found, found + np.cumsum(negatives, axis=1))
    total = positives.sum(axis=1)
    return _divide(np.nansum(precision * positives, axis=1), total)


def weighted_calibration_error(
    weights: Floats, confidence: Floats, correct: NDArray[np.bool_], bins: int
) -> Floats:
    """Return the expected calibration error over equal-width bins of confidence (lower, upper]."""
    members = np.zeros((len(confidence), bins))
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    members[np.arange(len(confidence)), index] = 1
    gaps = weights @ (members * (correct - confidence)[:, None])
    return _divide(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def weighted_classification_scores(
    weights: Floats,
    true: NDArray[np.integer],
    probabilities: Floats,
    predicted: NDArray[np.integer],
    classes: Sequence[str],
) -> dict[str, Floats]:
    """Return the figures of ``busi_monai.metrics.classification_scores`` for each resample.

    Args:
        weights: (R, N).
        true: (N,) class indices.
        probabilities: (N, C).
        predicted: (N,) class indices.
        classes: C names.

    Returns:
        (R,) figures by the same names, but for ``per_class.<class>.n``.
    """
    count = len(classes)
    confusion = weighted_confusion(weights, true, predicted, count)
    support, called = confusion.sum(axis=2), confusion.sum(axis=1)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    total = support.sum(axis=1)
    recall, precision = _divide(hits, support), _divide(hits, called)
    f1 = _divide(2 * hits, support + called)
    against_rest = [(weights, probabilities[:, index], true == index) for index in range(count)]
    auc = np.stack([weighted_auc(*part) for part in against_rest], axis=1)
    average_precision = np.stack(
        [weighted_average_precision(*part) for part in against_rest], axis=1
    )
    squared = ((probabilities - np.eye(count)[true]) ** 2).sum(axis=1)
    chosen = probabilities.argmax(axis=1)
    scores = {
        "accuracy": _divide(hits.sum(axis=1), total),
        "balanced_accuracy": _mean_of_defined(recall),
        "macro_f1": _mean_of_defined(f1),
        "weighted_f1": _divide(np.nansum(f1 * support, axis=1), total),
        "auc_macro": auc.mean(axis=1),
        "average_precision_macro": average_precision.mean(axis=1),
        "ece": weighted_calibration_error(weights, probabilities.max(axis=1), chosen == true, BINS),
        "brier": weighted_mean(weights, squared),
    }
    scores |= _malignancy_aucs(weights, true, probabilities, classes)
    for index, name in enumerate(classes):
        kinds = {"precision": precision, "recall": recall, "f1": f1, "auc": auc}
        for kind, values in kinds.items():
            scores[f"per_class.{name}.{kind}"] = values[:, index]
    return scores


def _malignancy_aucs(
    weights: Floats, true: NDArray[np.integer], probabilities: Floats, classes: Sequence[str]
) -> dict[str, Floats]:
    undefined = np.full(len(weights), np.nan)
    names = list(classes)
    if MALIGNANT not in names:
        return {"auc_malignant": undefined, "auc_benign_malignant": undefined}
    malignant = names.index(MALIGNANT)
    against_all = weighted_auc(weights, probabilities[:, malignant], true == malignant)
    if BENIGN not in names:
        return {"auc_malignant": against_all, "auc_benign_malignant": undefined}
    benign = names.index(BENIGN)
    lesions = (true == benign) | (true == malignant)
    chosen = probabilities[lesions]
    either = chosen[:, benign] + chosen[:, malignant]
    score = np.divide(chosen[:, malignant], either, out=np.full(len(chosen), 0.5), where=either > 0)
    among_lesions = weighted_auc(weights[:, lesions], score, true[lesions] == malignant)
    return {"auc_malignant": against_all, "auc_benign_malignant": among_lesions}


def _mean_of_defined(values: Floats) -> Floats:
    """Return the mean over classes, those left out whose figure is undefined."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _by_score(
    weights: Floats, scores: Floats, positive: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return (R, U) weights of positives and of negatives at each of U rising distinct scores."""
    if not len(scores):
        return np.zeros((len(weights), 0)), np.zeros((len(weights), 0))
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    shuffled, wanted = weights[:, order], positive[order]
    return (
        np.add.reduceat(shuffled * wanted, starts, axis=1),
        np.add.reduceat(shuffled * ~wanted, starts, axis=1),
    )


def mean_figure(weights: Floats, values: Floats) -> ResampledFigure:
    """Return the mean of (N,) values that are not NaN, as they are and in every resample (R, N)."""
    defined = ~np.isnan(values)
    n = int(defined.sum())
    value = float(values[defined].mean()) if n else math.nan
    return ResampledFigure(value, weighted_mean(weights, values), n)


def _divide(above: Floats, below: Floats) -> Floats:
    """Divide, NaN where the divisor is zero."""
    result = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=result, where=np.asarray(below) > 0)
    return result
