"""What thresholds for malignancy find, miss and falsely alarm, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.evaluation.resampling import ResampledFigure, weighted_mean
from busi_monai.metrics import (
    negative_predictive_value,
    positive_predictive_value,
    sensitivity_threshold,
    threshold_scores,
)
from busi_monai.settings import PREVALENCE, SENSITIVITIES

__all__ = [
    "cross_fitted_thresholds",
    "operating_figures",
    "operating_point_name",
]

MALIGNANT = CLASSES[-1]

Floats = NDArray[np.float64]


def operating_point_name(sensitivity: float) -> str:
    """Return the name of the threshold for a sensitivity.

    Examples:
        >>> operating_point_name(0.95), operating_point_name(0.975)
        ('sensitivity_95', 'sensitivity_97.5')
    """
    return f"sensitivity_{round(100 * sensitivity, 6):g}"


def cross_fitted_thresholds(
    rows: pd.DataFrame, sensitivities: Sequence[float] = SENSITIVITIES
) -> dict[str, Floats]:
    """Return thresholds for malignancy that are fitted on the other folds' images.

    Args:
        rows: N rows with ``fold``, ``true_class`` and ``p_malignant``; the threshold of a fold's
            rows is fitted on those of all other folds.
        sensitivities: what the thresholds are fitted for.

    Returns:
        (N,) thresholds by name; none if there is one fold only, or if a fold's rest holds no
        malignant image.
    """
    if "fold" not in rows.columns or rows["fold"].nunique() < 2:
        return {}
    fold = rows["fold"].to_numpy()
    positive = (rows["true_class"] == MALIGNANT).to_numpy()
    scores = rows[f"p_{MALIGNANT}"].to_numpy(dtype=float)
    if any(not positive[fold != name].any() for name in np.unique(fold)):
        return {}
    found = {}
    for sensitivity in sensitivities:
        thresholds = np.empty(len(rows))
        for name in np.unique(fold):
            others = fold != name
            thresholds[~others] = sensitivity_threshold(
                positive[others], scores[others], sensitivity
            )
        found[operating_point_name(sensitivity)] = thresholds
    return found


def operating_figures(
    rows: pd.DataFrame,
    weights: Floats,
    thresholds: Mapping[str, ArrayLike],
    *,
    prevalence: float = PREVALENCE,
) -> dict[str, Any]:
    """Return by name what each threshold comes to, as plain JSON values.

    Args:
        rows: N rows with a known ``true_class`` and ``p_malignant``.
        weights: (R, N), how often each resample holds each row.
        thresholds: by name, one number for all rows or (N,) one for each; those fitted on
            the very rows flatter.
        prevalence: part of malignant images that ``ppv`` and ``npv`` are told for, in (0, 1).

    Returns:
        By name ``sensitivity, specificity, ppv, npv`` as ``{value, low, high, n}``, ``thresholds``
        (sorted, each once), ``missed``, ``false_alarms`` and ``prevalence``.

    Raises:
        InputError: for another prevalence.
    """
    if not 0 < prevalence < 1:
        raise InputError(f"prevalence must lie between 0 and 1, got {prevalence}")
    positive = (rows["true_class"] == MALIGNANT).to_numpy()
    scores = rows[f"p_{MALIGNANT}"].to_numpy(dtype=float)
    found = {}
    for name, threshold in thresholds.items():
        each = np.broadcast_to(np.asarray(threshold, dtype=float), scores.shape)
        counted = threshold_scores(positive, scores, each)
        alarmed = scores >= each
        sensitivity = weighted_mean(weights, np.where(positive, alarmed, np.nan))
        specificity = weighted_mean(weights, np.where(positive, np.nan, ~alarmed))
        rates = (counted.sensitivity, counted.specificity)
        values = {
            "sensitivity": (counted.sensitivity, sensitivity, counted.positives),
            "specificity": (counted.specificity, specificity, counted.negatives),
            "ppv": (
                float(positive_predictive_value(*rates, prevalence)),
                positive_predictive_value(sensitivity, specificity, prevalence),
                len(rows),
            ),
            "npv": (
                float(negative_predictive_value(*rates, prevalence)),
                negative_predictive_value(sensitivity, specificity, prevalence),
                len(rows),
            ),
        }
        found[name] = {
            **{kind: ResampledFigure(*value).as_dict() for kind, value in values.items()},
            "thresholds": sorted({round(float(value), 6) for value in each}),
            "missed": counted.missed,
            "false_alarms": counted.false_alarms,
            "prevalence": prevalence,
        }
    return found
