"""Scores of predicted classes and class probabilities over many images.

Computed with numpy from one confusion matrix and one sorting per class: the same figures by
scikit-learn, against which they are tested, take 14 ms for 780 images, too long for bootstrapping.
A figure that the images cannot tell (no image of a class, none predicted as it) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from busi_monai.cases import CLASSES
from busi_monai.metrics.calibration import brier_score, expected_calibration_error
from busi_monai.metrics.checks import check_labels, check_probabilities

__all__ = [
    "average_precision",
    "benign_malignant_auc",
    "classification_scores",
    "confusion_matrix",
    "roc_auc",
]

_, BENIGN, MALIGNANT = CLASSES


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
    labels, values = check_probabilities(true, probabilities)
    if values.shape[1] != len(classes):
        raise ValueError(f"got {values.shape[1]} probabilities for {len(classes)} classes")
    matrix = confusion_matrix(labels, predicted, len(classes))
    scores = _confusion_scores(matrix)
    areas = {name: roc_auc(labels == k, values[:, k]) for k, name in enumerate(classes)}
    precisions = [average_precision(labels == k, values[:, k]) for k in range(len(classes))]
    scores |= {
        "auc_macro": float(np.mean(list(areas.values()))),
        "auc_malignant": areas.get(MALIGNANT, math.nan),
        "auc_benign_malignant": benign_malignant_auc(labels, values, classes),
        "average_precision_macro": float(np.mean(precisions)),
        "ece": expected_calibration_error(labels, values),
        "brier": brier_score(labels, values),
    }
    return scores | _class_scores(matrix, areas)


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Return the (C, C) counts of images by true class (rows) and predicted class (columns).

    Raises:
        ValueError: if the lengths differ or a class index is out of range.

    Examples:
        >>> confusion_matrix([0, 1, 1], [0, 0, 1], 2).tolist()
        [[1, 0], [1, 1]]
    """
    rows = check_labels("true", true, n_classes)
    columns = check_labels("predicted", predicted, n_classes)
    if len(rows) != len(columns):
        raise ValueError(f"got {len(rows)} true classes, but {len(columns)} predicted ones")
    counts = np.bincount(rows * n_classes + columns, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def roc_auc(positive: ArrayLike, score: ArrayLike) -> float:
    """Return the area under the ROC curve in [0, 1]: P(score of a positive > of a negative).

    Ties count half (Mann–Whitney U; Hanley & McNeil 1982). NaN without positives or negatives.

    Args:
        positive: (N,) bool.
        score: (N,) float, higher for positives.

    Examples:
        >>> roc_auc([True, True, False], [0.9, 0.4, 0.4])
        0.75
    """
    is_positive = np.asarray(positive, dtype=bool)
    n_positive = int(is_positive.sum())
    n_negative = len(is_positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    ranks = float(rankdata(np.asarray(score, dtype=np.float64))[is_positive].sum())
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def average_precision(positive: ArrayLike, score: ArrayLike) -> float:
    """Return Σ_n (R_n − R_{n−1})·P_n over the distinct thresholds, in [0, 1].

    NaN without positives.

    Args:
        positive: (N,) bool.
        score: (N,) float, higher for positives.

    Examples:
        >>> average_precision([True, False, True], [0.9, 0.5, 0.1])
        0.8333333333333333
    """
    is_positive = np.asarray(positive, dtype=bool)
    if not is_positive.any():
        return math.nan
    values = np.asarray(score, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    found = np.cumsum(is_positive[order])[last_of_ties]
    gained = np.diff(found, prepend=0) / found[-1]
    return float((gained * found / (last_of_ties + 1)).sum())


def benign_malignant_auc(
    true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str] = CLASSES
) -> float:
    """Return the AUC of malignant against benign among the true lesions only.

    The score is p_malignant / (p_benign + p_malignant), which the probability of normal does not
    move. NaN where either class is not in ``classes`` or has no image.

    Args:
        true: (N,) int true class indices in [0, C).
        probabilities: (N, C) float in [0, 1], each row summing to 1.
        classes: C class names in the order of the columns.
    """
    if not {BENIGN, MALIGNANT} <= set(classes):
        return math.nan
    labels, values = check_probabilities(true, probabilities)
    benign, malignant = list(classes).index(BENIGN), list(classes).index(MALIGNANT)
    lesions = (labels == benign) | (labels == malignant)
    chosen = values[lesions]
    either = chosen[:, benign] + chosen[:, malignant]
    score = np.divide(chosen[:, malignant], either, out=np.full(len(chosen), 0.5), where=either > 0)
    return roc_auc(labels[lesions] == malignant, score)


def _confusion_scores(matrix: NDArray[np.int64]) -> dict[str, float]:
    true, predicted, hits = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    total = int(matrix.sum())
    if not total:
        names = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
        return dict.fromkeys(names, math.nan)
    occurs = true > 0
    f1 = _ratio(2 * hits, true + predicted)
    return {
        "accuracy": float(hits.sum() / total),
        "balanced_accuracy": float((hits[occurs] / true[occurs]).mean()),
        "macro_f1": float(np.nanmean(f1)),
        "weighted_f1": float((f1[occurs] * true[occurs]).sum() / total),
    }


def _class_scores(matrix: NDArray[np.int64], areas: dict[str, float]) -> dict[str, float]:
    true, predicted, hits = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    f1 = _ratio(2 * hits, true + predicted)
    scores: dict[str, float] = {}
    for k, (name, area) in enumerate(areas.items()):
        scores |= {
            f"per_class.{name}.precision": float(precision[k]),
            f"per_class.{name}.recall": float(recall[k]),
            f"per_class.{name}.f1": float(f1[k]),
            f"per_class.{name}.auc": area,
            f"per_class.{name}.n": int(true[k]),
        }
    return scores


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
