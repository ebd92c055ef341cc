"""Thresholds for malignancy, and the radiologists' BI-RADS categories beside the network's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from busi_monai.cases import CLASSES, MALIGNANT
from busi_monai.errors import InputError
from busi_monai.evaluation.resampling import resampled, with_ones
from busi_monai.metrics import (
    negative_predictive_value,
    positive_predictive_value,
    roc_auc,
    sensitivity_threshold,
    weighted_mean,
)
from busi_monai.settings import PREVALENCE, SENSITIVITIES

__all__ = [
    "BIRADS_ORDER",
    "SUSPICIOUS",
    "birads_figures",
    "cross_fitted_thresholds",
    "operating_figures",
    "operating_point_name",
]

BIRADS_ORDER = ("1", "2", "3", "4", "4a", "4b", "4c", "5")
"""Categories by rising suspicion (ACR BI-RADS Atlas, 5th edition, 2013).

0 (unfinished) and 6 (known malignancy) say nothing of that kind. A bare 4 stands below its parts.
"""

SUSPICIOUS = "4"
"""From this category on, a biopsy is advised."""


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
    """Return (N,) thresholds by name, those of a fold's rows fitted on all other folds'.

    None if there is one ``fold`` only, or if a fold's rest holds no malignant image.
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
        thresholds = found[operating_point_name(sensitivity)] = np.empty(len(rows))
        for name in np.unique(fold):
            others = fold != name
            thresholds[~others] = sensitivity_threshold(
                positive[others], scores[others], sensitivity
            )
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
    weights = with_ones(weights)
    found = {}
    for name, threshold in thresholds.items():
        each = np.broadcast_to(np.asarray(threshold, dtype=float), scores.shape)
        alarmed = scores >= each
        rates = _share(weights, alarmed, positive), _share(weights, ~alarmed, ~positive)
        figures = {
            "sensitivity": resampled(rates[0], int(positive.sum())),
            "specificity": resampled(rates[1], int((~positive).sum())),
            "ppv": resampled(positive_predictive_value(*rates, prevalence), len(rows)),
            "npv": resampled(negative_predictive_value(*rates, prevalence), len(rows)),
        }
        found[name] = {
            **{kind: figure.as_dict() for kind, figure in figures.items()},
            "thresholds": sorted({round(float(value), 6) for value in each}),
            "missed": int((positive & ~alarmed).sum()),
            "false_alarms": int((~positive & alarmed).sum()),
            "prevalence": prevalence,
        }
    return found


def birads_figures(
    rows: pd.DataFrame, weights: Floats, classes: Sequence[str] = CLASSES
) -> dict[str, dict[str, Any]]:
    """Return what BI-RADS says of malignancy, and the network on the same images.

    Args:
        rows: N rows with ``true_class``, ``p_malignant`` and, where it is known, ``birads``.
        weights: (R, N), how often each resample holds each row.
        classes: the classes that have probability columns.

    Returns:
        ``auc`` of the categories against the true class, their ``sensitivity`` and ``specificity``
        from category 4 on, ``network_auc`` of p_malignant, and ``difference`` (network minus
        BI-RADS, paired), each as ``{value, low, high, n}``; nothing if no image has a category.
    """
    if "birads" not in rows.columns or MALIGNANT not in classes:
        return {}
    categories = rows["birads"].astype(str).str.lower().str.removesuffix(".0")
    known = (categories.isin(BIRADS_ORDER) & rows["true_class"].isin(classes)).to_numpy()
    if not known.any():
        return {}
    rank = np.array([float(BIRADS_ORDER.index(name)) for name in categories[known]])
    malignant = (rows["true_class"] == MALIGNANT).to_numpy()[known]
    weights = with_ones(weights[:, known])
    suspected = rank >= BIRADS_ORDER.index(SUSPICIOUS)
    auc = roc_auc(malignant, rank, weights)
    network = roc_auc(malignant, rows[f"p_{MALIGNANT}"].to_numpy(dtype=float)[known], weights)
    found = {
        "auc": (auc, len(rank)),
        "sensitivity": (_share(weights, suspected, malignant), int(malignant.sum())),
        "specificity": (_share(weights, ~suspected, ~malignant), int((~malignant).sum())),
        "network_auc": (network, len(rank)),
        "difference": (network - auc, len(rank)),
    }
    return {name: resampled(values, n).as_dict() for name, (values, n) in found.items()}


def _share(weights: Floats, hits: NDArray[np.bool_], members: NDArray[np.bool_]) -> Floats:
    return weighted_mean(weights, np.where(members, hits, math.nan))
