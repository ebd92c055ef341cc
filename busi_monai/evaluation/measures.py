"""From a table of predictions to the figures of ``metrics.json``, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.cases import CLASSES, class_index
from busi_monai.errors import InputError
from busi_monai.evaluation.resampling import (
    group_weights,
    percentile_interval,
    weighted_classification_scores,
    weighted_mean,
)
from busi_monai.evaluation.tables import (
    check_predictions,
    probability_matrix,
    row_groups,
    usable_rows,
)
from busi_monai.metrics import classification_scores, confusion_matrix

__all__ = ["CONFIDENCE", "evaluate_predictions", "figure_value"]

CONFIDENCE = 0.95

PAIR_AUC = "auc_benign_malignant"
CLASS_FIGURES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "weighted_f1",
    "auc_macro",
    "auc_malignant",
    PAIR_AUC,
    "average_precision_macro",
    "ece",
    "brier",
)
PER_CLASS_FIGURES = ("precision", "recall", "f1", "auc")

Floats = NDArray[np.float64]


Figure = dict[str, Any]


def evaluate_predictions(
    table: pd.DataFrame,
    *,
    classes: Sequence[str] = CLASSES,
    groups: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Measure a table of predictions.

    Each figure is ``{"value", "low", "high", "n"}``: n is the number of images that it is computed
    on, low and high are the 2.5th and 97.5th percentile over resamples in which whole groups are
    drawn with replacement (Efron and Tibshirani, "An introduction to the bootstrap", 1993, ch. 13).
    A figure that is undefined, such as an AUC where one class only is there, is ``None``.

    Lesion figures are means over the images with a true lesion, ``all_`` figures over all images
    with a known mask, ``normal_clean_rate`` is the part of the images without a lesion whose
    predicted mask is empty, and ``hd95_px`` is over lesions that have a predicted mask. Class
    figures are over images whose true class is one of ``classes``.

    Args:
        table: rows as in ``predictions.csv``; those with an ``error`` are counted and left out.
        classes: the classes that have probability columns, in order; empty without a class head.
        groups: (N,) group of each row; by default the column ``group``, where it is empty each
            image for itself.
        seed: of the resampling.
        resamples: number of resamples.

    Returns:
        The figures by name, ``per_class`` by class, ``confusion_matrix``, and counts, as plain JSON
        values.

    Raises:
        InputError: if columns are missing, values are wrong, or no row is usable.
    """
    check_predictions(table, classes)
    if groups is not None and len(groups) != len(table):
        raise InputError(f"expected one group for each of {len(table)} rows, got {len(groups)}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    rows = table.reset_index(drop=True)
    rows = rows.assign(_group=row_groups(rows) if groups is None else [str(g) for g in groups])
    usable = usable_rows(rows)
    if usable.empty:
        raise InputError(
            f"none of the {len(table)} rows holds a prediction; see their error column"
        )
    weights = group_weights(usable["_group"].tolist(), resamples, seed)
    return {
        **_mask_figures(usable, weights),
        **(_class_figures(usable, weights, tuple(classes)) if classes else {}),
        "classes": list(classes),
        "images": len(usable),
        "failed": len(table) - len(usable),
        "groups": int(usable["_group"].nunique()),
        "bootstrap": {"resamples": resamples, "seed": seed, "confidence": CONFIDENCE},
    }


def figure_value(metrics: Mapping[str, Any], name: str) -> float | None:
    """Return the value of a figure of ``metrics.json`` by its (dotted) name.

    Raises:
        InputError: if there is no such figure.

    Examples:
        >>> figure_value({"per_class": {"benign": {"f1": {"value": 0.8}}}}, "per_class.benign.f1")
        0.8
    """
    found: Any = metrics
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise InputError(f"no figure {name!r} in these metrics")
        found = found[part]
    value: float | None = found["value"] if isinstance(found, Mapping) else found
    return value


def _mask_figures(rows: pd.DataFrame, weights: Floats) -> dict[str, Figure]:
    lesion = _true_lesion(rows)
    predicted = rows["lesion_pixels"].to_numpy(dtype=float) > 0
    dice, iou, hd95 = (_column(rows, name) for name in ("dice", "iou", "hd95_px"))
    without_lesion = ~np.isnan(dice) & ~lesion
    values = {
        "lesion_dice": np.where(lesion, dice, np.nan),
        "lesion_iou": np.where(lesion, iou, np.nan),
        "all_dice": dice,
        "all_iou": iou,
        "mean_iou": _column(rows, "mean_iou"),
        "normal_clean_rate": np.where(without_lesion, ~predicted, np.nan),
        "pixel_accuracy": _column(rows, "pixel_accuracy"),
        "hd95_px": np.where(lesion & predicted, hd95, np.nan),
    }
    return {name: _mean_figure(weights, value) for name, value in values.items()}


def _class_figures(rows: pd.DataFrame, weights: Floats, classes: tuple[str, ...]) -> dict[str, Any]:
    known = rows["true_class"].isin(classes).to_numpy()
    rows, weights = rows[known], weights[:, known]
    true = np.array([class_index(name, classes) for name in rows["true_class"]], dtype=int)
    predicted = np.array([class_index(name, classes) for name in rows["predicted_class"]], int)
    if not len(true):
        return {name: _figure(math.nan, np.full(1, math.nan), 0) for name in CLASS_FIGURES}
    probabilities = probability_matrix(rows, classes)
    values = classification_scores(true, probabilities, predicted, classes)
    samples = weighted_classification_scores(weights, true, probabilities, predicted, classes)
    pair = int(rows["true_class"].isin(["benign", "malignant"]).sum())
    figures: dict[str, Any] = {
        name: _figure(values[name], samples[name], pair if name == PAIR_AUC else len(true))
        for name in CLASS_FIGURES
        if name in values
    }
    dice = _column(rows, "dice")
    figures["per_class"] = {
        name: {
            **{
                kind: _figure(
                    values[f"per_class.{name}.{kind}"],
                    samples[f"per_class.{name}.{kind}"],
                    len(true),
                )
                for kind in PER_CLASS_FIGURES
            },
            "dice": _mean_figure(weights, np.where(true == index, dice, np.nan)),
            "n": int((true == index).sum()),
        }
        for index, name in enumerate(classes)
    }
    counts = confusion_matrix(true, predicted, len(classes))
    figures["confusion_matrix"] = {
        "classes": list(classes),
        "rows": "true class",
        "counts": np.asarray(counts).astype(int).tolist(),
    }
    return figures


def _mean_figure(weights: Floats, values: Floats) -> Figure:
    defined = ~np.isnan(values)
    n = int(defined.sum())
    value = float(values[defined].mean()) if n else math.nan
    return _figure(value, weighted_mean(weights, values), n)


def _figure(value: float, samples: Floats, n: int) -> Figure:
    low, high = percentile_interval(samples, CONFIDENCE)
    if math.isnan(value):
        return {"value": None, "low": None, "high": None, "n": n}
    return {"value": _plain(value), "low": _plain(low), "high": _plain(high), "n": n}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def _true_lesion(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """By the true mask where its area is told, else by the true class."""
    by_class = ~rows["true_class"].isin(["", CLASSES[0]]).to_numpy()
    area = _column(rows, "true_lesion_pixels")
    return np.where(np.isnan(area), by_class, area > 0)


def _column(rows: pd.DataFrame, name: str) -> Floats:
    if name not in rows.columns:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=float)
