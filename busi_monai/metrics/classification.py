"""Scores of predicted classes and class probabilities over many images, with weights or without.

Weights (R, N) count each of N images in R rows, as resamples of a bootstrap do: a weighted figure
equals that of the images repeated, so that a thousand resamples cost a few matrix products. Without
weights each image counts once. A figure that the images cannot tell (no image of a class, none
predicted as it) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from busi_monai.cases import BENIGN, CLASSES, MALIGNANT
from busi_monai.metrics.calibration import BINS, bin_of
from busi_monai.metrics.checks import check_labels, check_probabilities

__all__ = [
    "average_precision",
    "classification_scores",
    "confusion_matrix",
    "roc_auc",
    "weighted_mean",
    "weighted_scores",
]

Floats = NDArray[np.float64]


def classification_scores(
    true: ArrayLike,
    probabilities: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[str] = CLASSES,
) -> dict[str, float]:
    """Return all classification scores.

    ``macro_f1`` is the mean over the classes that occur among the true or predicted ones,
    ``weighted_f1`` is weighted by the true ones, ``balanced_accuracy`` is the mean recall of the
    classes that occur (as in scikit-learn). ``auc_…`` and ``average_precision_macro`` are one
    class against the rest, macro the mean over all classes, NaN if one does not occur.
    ``auc_benign_malignant`` is among the true lesions only, by p_malignant / (p_benign +
    p_malignant), which the probability of normal does not move. ``ece``, the expected calibration
    error, is the mean gap between confidence and accuracy over 15 bins of the most probable class's
    probability (Guo et al., ICML 2017, eq. 3), ``brier`` the mean of Σ_c (p_c − y_c)² (Brier 1950),
    for two classes twice scikit-learn's.

    Args:
        true: (N,) int true class indices in [0, C).
        probabilities: (N, C) float in [0, 1], each row summing to 1.
        predicted: (N,) int predicted class indices, after thresholds and rules.
        classes: C class names in the order of the columns.

    Returns:
        ``accuracy, balanced_accuracy, macro_f1, weighted_f1, auc_macro, auc_malignant,
        auc_benign_malignant, average_precision_macro, ece, brier`` and
        ``per_class.<class>.{precision, recall, f1, auc, n}``, n being the number of true ones.

    Raises:
        ValueError: if shapes, labels or probabilities are not as described.

    Examples:
        >>> scores = classification_scores(
        ...     [0, 1], [[0.7, 0.3], [0.6, 0.4]], [0, 0], ("benign", "malignant")
        ... )
        >>> scores["accuracy"], scores["auc_malignant"], scores["per_class.malignant.recall"]
        (0.5, 1.0, 0.0)
    """
    once = np.ones((1, len(np.asarray(true))))
    found = weighted_scores(once, true, probabilities, predicted, classes)
    return {
        name: int(values[0]) if name.endswith(".n") else float(values[0])
        for name, values in found.items()
    }


def weighted_scores(
    weights: Floats,
    true: ArrayLike,
    probabilities: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[str] = CLASSES,
) -> dict[str, Floats]:
    """Return the figures of ``classification_scores`` as (R,) arrays, one for each row of weights.

    Raises:
        ValueError: as ``classification_scores``.
    """
    labels, values = check_probabilities(true, probabilities)
    if values.shape[1] != len(classes):
        raise ValueError(f"got {values.shape[1]} probabilities for {len(classes)} classes")
    confusion = _confusion(weights, labels, predicted, len(classes))
    support, called = confusion.sum(axis=2), confusion.sum(axis=1)
    hits, total = np.diagonal(confusion, axis1=1, axis2=2), support.sum(axis=1)
    precision, recall = _divide(hits, called), _divide(hits, support)
    f1 = _divide(2 * hits, support + called)
    rest = [(labels == index, values[:, index], weights) for index in range(len(classes))]
    auc = np.stack([roc_auc(*part) for part in rest], axis=1)
    precisions = np.stack([average_precision(*part) for part in rest], axis=1)
    scores = {
        "accuracy": _divide(hits.sum(axis=1), total),
        "balanced_accuracy": _mean_of_defined(recall),
        "macro_f1": _mean_of_defined(f1),
        "weighted_f1": _divide(np.nansum(f1 * support, axis=1), total),
        "auc_macro": auc.mean(axis=1),
        "auc_malignant": auc[:, list(classes).index(MALIGNANT)]
        if MALIGNANT in classes
        else np.full(len(weights), np.nan),
        "auc_benign_malignant": _benign_malignant_auc(weights, labels, values, list(classes)),
        "average_precision_macro": precisions.mean(axis=1),
        "ece": _calibration_error(weights, labels, values),
        "brier": weighted_mean(weights, ((values - np.eye(len(classes))[labels]) ** 2).sum(axis=1)),
    }
    kinds = {"precision": precision, "recall": recall, "f1": f1, "auc": auc, "n": support}
    for index, name in enumerate(classes):
        scores |= {f"per_class.{name}.{kind}": each[:, index] for kind, each in kinds.items()}
    return scores


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Return the (C, C) counts of images by true class (rows) and predicted class (columns).

    Raises:
        ValueError: if the lengths differ or a class index is out of range.

    Examples:
        >>> confusion_matrix([0, 1, 1], [0, 0, 1], 2).tolist()
        [[1, 0], [1, 1]]
    """
    once = np.ones((1, len(np.asarray(true))))
    return _confusion(once, true, predicted, n_classes)[0].astype(np.int64)


def roc_auc(positive: ArrayLike, score: ArrayLike, weights: Floats | None = None) -> Floats:
    """Return the area under the ROC curve in [0, 1]: P(score of a positive > of a negative).

    Ties count half (Mann–Whitney U; Hanley & McNeil 1982). NaN without positives or negatives.

    Args:
        positive: (N,) bool.
        score: (N,) float, higher for positives.
        weights: (R, N); by default one row of ones.

    Returns:
        (R,) areas.

    Examples:
        >>> roc_auc([True, True, False], [0.9, 0.4, 0.4])
        array([0.75])
    """
    positives, negatives = _by_score(positive, score, weights)
    below = np.cumsum(negatives, axis=1) - negatives
    won = (positives * (below + negatives / 2)).sum(axis=1)
    return _divide(won, positives.sum(axis=1) * negatives.sum(axis=1))


def average_precision(
    positive: ArrayLike, score: ArrayLike, weights: Floats | None = None
) -> Floats:
    """Return Σ_n (R_n − R_{n−1})·P_n over the distinct thresholds, in [0, 1].

    NaN without positives. Arguments and shape are those of ``roc_auc``.

    Examples:
        >>> average_precision([True, False, True], [0.9, 0.5, 0.1]).round(4)
        array([0.8333])
    """
    positives, negatives = (part[:, ::-1] for part in _by_score(positive, score, weights))
    found = np.cumsum(positives, axis=1)
    precision = _divide(found, found + np.cumsum(negatives, axis=1))
    return _divide(np.nansum(precision * positives, axis=1), positives.sum(axis=1))


def weighted_mean(weights: Floats, values: Floats) -> Floats:
    """Return the (R,) means of those of (N,) values that are not NaN, NaN where none is left."""
    defined = ~np.isnan(values)
    return _divide(weights[:, defined] @ values[defined], weights[:, defined].sum(axis=1))


def _confusion(weights: Floats, true: ArrayLike, predicted: ArrayLike, n_classes: int) -> Floats:
    """Return (R, C, C) weights, true class by predicted class."""
    rows = check_labels("true", true, n_classes)
    columns = check_labels("predicted", predicted, n_classes)
    if len(rows) != len(columns):
        raise ValueError(f"got {len(rows)} true classes, but {len(columns)} predicted ones")
    cells = np.zeros((len(rows), n_classes**2))
    cells[np.arange(len(rows)), rows * n_classes + columns] = 1
    found: Floats = (weights @ cells).reshape(-1, n_classes, n_classes)
    return found


def _calibration_error(weights: Floats, true: NDArray[np.int64], probabilities: Floats) -> Floats:
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == true
    members = np.eye(BINS)[bin_of(confidence, BINS)]
    gaps = weights @ (members * (correct - confidence)[:, None])
    return _divide(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def _benign_malignant_auc(
    weights: Floats, true: NDArray[np.int64], probabilities: Floats, classes: list[str]
) -> Floats:
    if not {BENIGN, MALIGNANT} <= set(classes):
        return np.full(len(weights), np.nan)
    benign, malignant = classes.index(BENIGN), classes.index(MALIGNANT)
    lesions = (true == benign) | (true == malignant)
    chosen = probabilities[lesions]
    either = chosen[:, benign] + chosen[:, malignant]
    score = np.divide(chosen[:, malignant], either, out=np.full(len(chosen), 0.5), where=either > 0)
    return roc_auc(true[lesions] == malignant, score, weights[:, lesions])


def _mean_of_defined(values: Floats) -> Floats:
    """Return the mean over classes, those left out whose figure is undefined."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _by_score(
    positive: ArrayLike, score: ArrayLike, weights: Floats | None
) -> tuple[Floats, Floats]:
    """Return (R, U) weights of positives and of negatives at each of U rising distinct scores."""
    scores, wanted = np.asarray(score, dtype=float), np.asarray(positive, dtype=bool)
    weights = np.ones((1, len(scores))) if weights is None else weights
    if not len(scores):
        return np.zeros((len(weights), 0)), np.zeros((len(weights), 0))
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    shuffled, wanted = weights[:, order], wanted[order]
    return (
        np.add.reduceat(shuffled * wanted, starts, axis=1),
        np.add.reduceat(shuffled * ~wanted, starts, axis=1),
    )


def _divide(above: Floats, below: Floats) -> Floats:
    """Divide, NaN where the divisor is zero."""
    result = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=result, where=np.asarray(below) > 0)
    return result
