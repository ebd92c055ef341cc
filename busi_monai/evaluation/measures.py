"""From a table of predictions to the figures of ``metrics.json``, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.cases import CLASSES, MALIGNANT, NORMAL, class_index
from busi_monai.errors import InputError
from busi_monai.evaluation.lesion_sizes import batch_average_figures, lesion_size_figures
from busi_monai.evaluation.malignancy import (
    birads_figures,
    cross_fitted_thresholds,
    operating_figures,
)
from busi_monai.evaluation.resampling import (
    CONFIDENCE,
    ResampledFigure,
    group_weights,
    mean_figure,
    resampled,
    with_ones,
)
from busi_monai.evaluation.tables import (
    check_predictions,
    probability_matrix,
    row_groups,
    usable_rows,
)
from busi_monai.metrics import confusion_matrix, weighted_mean, weighted_scores
from busi_monai.settings import PREVALENCE

__all__ = [
    "evaluate_predictions",
    "figure_value",
    "is_mask_figure",
    "resampled_figures",
]

GROUP_DICE = "lesion_dice_by_group"
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

Floats = NDArray[np.float64]


def evaluate_predictions(
    table: pd.DataFrame,
    *,
    classes: Sequence[str] = CLASSES,
    groups: Sequence[object] | None = None,
    operating_points: Mapping[str, float] | None = None,
    prevalence: float = PREVALENCE,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Measure a table of predictions.

    Each figure is ``{"value", "low", "high", "n"}``: n is the number of images that it is computed
    on, low and high are the 2.5th and 97.5th percentile over resamples in which whole groups are
    drawn with replacement (Efron and Tibshirani, "An introduction to the bootstrap", 1993, ch. 13).
    A figure that is undefined, such as an AUC where one class only is there, is ``None``.

    Lesion figures are means over the images with a true lesion, and ``lesion_dice_by_group`` is the
    mean over groups of their means, so that a sweep of one lesion counts once. ``all_`` figures are
    over all images with a known mask, ``normal_clean_rate`` is the part of the images without a
    lesion whose predicted mask is empty, and ``hd95_px`` is over lesions that have a predicted
    mask. Class figures are over images whose true class is one of ``classes``.

    Args:
        table: rows as in ``predictions.csv``; those with an ``error`` are counted and left out.
        classes: the classes that have probability columns, in order; empty without a class head.
        groups: (N,) group of each row; by default the column ``group``, where it is empty each
            image for itself.
        operating_points: thresholds for malignancy by name, fitted on other images. A table with
            several folds (column ``fold``) has its own, each fold's fitted on the others.
        prevalence: part of malignant images that predictive values are told for.
        seed: of the resampling.
        resamples: number of resamples.

    Returns:
        The figures by name, ``per_class`` by class, ``per_size`` by the true lesion's size,
        ``batch_averaged``, ``operating_points`` by name, ``birads`` where radiologists' categories
        are known, ``confusion_matrix``, and counts, as plain JSON values.

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
    figures: dict[str, Any] = {}
    by_class = _counts_by_class(usable, tuple(classes))
    for name, figure in resampled_figures(usable, weights, classes).items():
        if name.startswith("per_class."):
            _, of_class, kind = name.split(".")
            by_class["per_class"][of_class][kind] = figure.as_dict()
        else:
            figures[name] = figure.as_dict()
    figures[GROUP_DICE] = _group_dice(usable, weights).as_dict()
    sizes = lesion_size_figures(usable, weights)
    batches = batch_average_figures(usable)
    points = _operating_points(usable, weights, classes, operating_points or {}, prevalence)
    readers = birads_figures(usable, weights, classes)
    return {
        **figures,
        **by_class,
        **({"per_size": sizes} if sizes else {}),
        **({"batch_averaged": batches} if batches else {}),
        **({"operating_points": points} if points else {}),
        **({"birads": readers} if readers else {}),
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


def resampled_figures(
    rows: pd.DataFrame, weights: Floats, classes: Sequence[str] = CLASSES
) -> dict[str, ResampledFigure]:
    """Measure rows as they are and in every resample.

    Args:
        rows: N rows without an error, as from ``usable_rows``.
        weights: (R, N), how often each resample holds each row, as from ``group_weights``. The same
            weights for two tables of the same images make the resamples of both paired.
        classes: the classes that have probability columns, in order; empty without a class head.

    Returns:
        The figures by name, those by class as ``per_class.<class>.<figure>``.

    Examples:
        >>> rows = pd.DataFrame({"true_class": "benign", "lesion_pixels": 9, "dice": [0.5, 1]})
        >>> resampled_figures(rows, np.array([[2.0, 0.0]]), classes=())["lesion_dice"]
        ResampledFigure(value=0.75, samples=array([0.5]), n=2)
    """
    figures = _mask_figures(rows, weights)
    return figures | _class_figures(rows, weights, tuple(classes)) if classes else figures


def is_mask_figure(name: str) -> bool:
    """Return whether a figure is of the masks, and the same whatever the classes."""
    return name not in CLASS_FIGURES and not name.startswith("per_class.")


def _mask_figures(rows: pd.DataFrame, weights: Floats) -> dict[str, ResampledFigure]:
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
    return {name: mean_figure(weights, value) for name, value in values.items()}


def _group_dice(rows: pd.DataFrame, weights: Floats) -> ResampledFigure:
    """Return the mean over groups of the mean lesion Dice in each."""
    dice = np.where(_true_lesion(rows), _column(rows, "dice"), np.nan)
    defined = ~np.isnan(dice)
    codes, counts = np.unique(
        rows["_group"].to_numpy(dtype=str)[defined], return_inverse=True, return_counts=True
    )[1:]
    share, dice = 1 / counts[codes], dice[defined]  # of its group
    value = float(np.average(dice, weights=share)) if len(dice) else math.nan
    return ResampledFigure(value, weighted_mean(weights[:, defined] * share, dice), len(counts))


def _class_figures(
    rows: pd.DataFrame, weights: Floats, classes: tuple[str, ...]
) -> dict[str, ResampledFigure]:
    known = rows["true_class"].isin(classes).to_numpy()
    rows, weights = rows[known], weights[:, known]
    true, predicted = _class_indices(rows, classes)
    if not len(true):
        return {name: ResampledFigure(math.nan, np.full(1, math.nan), 0) for name in CLASS_FIGURES}
    probabilities = probability_matrix(rows, classes)
    scores = weighted_scores(with_ones(weights), true, probabilities, predicted, classes)
    pair = int(rows["true_class"].isin(["benign", "malignant"]).sum())
    dice = _column(rows, "dice")
    figures = {}
    for name, values in scores.items():
        if name.endswith(".n"):  # counted apart; in its place the class's Dice
            of_class = np.where(true == classes.index(name.split(".")[1]), dice, np.nan)
            figures[f"{name.removesuffix('n')}dice"] = mean_figure(weights, of_class)
        else:
            figures[name] = resampled(values, pair if name == PAIR_AUC else len(true))
    return figures


def _operating_points(
    rows: pd.DataFrame,
    weights: Floats,
    classes: Sequence[str],
    given: Mapping[str, float],
    prevalence: float,
) -> dict[str, Any]:
    if MALIGNANT not in classes:
        return {}
    known = rows["true_class"].isin(classes).to_numpy()
    rows, weights = rows[known], weights[:, known]
    thresholds = cross_fitted_thresholds(rows) or given
    return operating_figures(rows, weights, thresholds, prevalence=prevalence)


def _class_indices(
    rows: pd.DataFrame, classes: tuple[str, ...]
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    true = np.array([class_index(name, classes) for name in rows["true_class"]], dtype=int)
    return true, np.array([class_index(name, classes) for name in rows["predicted_class"]], int)


def _counts_by_class(rows: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    rows = rows[rows["true_class"].isin(classes)]
    if rows.empty:
        return {}
    true, predicted = _class_indices(rows, classes)
    counts = confusion_matrix(true, predicted, len(classes))
    return {
        "per_class": {name: {"n": int((true == k).sum())} for k, name in enumerate(classes)},
        "confusion_matrix": {
            "classes": list(classes),
            "rows": "true class",
            "counts": np.asarray(counts).astype(int).tolist(),
        },
    }


def _true_lesion(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """By the true mask where its area is told, else by the true class."""
    by_class = ~rows["true_class"].isin(["", NORMAL]).to_numpy()
    area = _column(rows, "true_lesion_pixels")
    return np.where(np.isnan(area), by_class, area > 0)


def _column(rows: pd.DataFrame, name: str) -> Floats:
    if name not in rows.columns:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=float)
