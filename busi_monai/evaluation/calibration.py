"""Temperature and thresholds for malignancy, fitted on predictions of images not trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import find_bundle
from busi_monai.cases import MALIGNANT, class_index
from busi_monai.errors import InputError
from busi_monai.evaluation.malignancy import operating_point_name
from busi_monai.evaluation.resampling import plain_number
from busi_monai.evaluation.tables import (
    check_predictions,
    probability_matrix,
    read_predictions,
    row_groups,
    table_classes,
    usable_rows,
)
from busi_monai.files import file_sha256
from busi_monai.metrics import (
    fit_temperature,
    negative_predictive_value,
    positive_predictive_value,
    rescale_probabilities,
    sensitivity_threshold,
)
from busi_monai.records import split_of
from busi_monai.settings import (
    PREVALENCE,
    SENSITIVITIES,
    InferenceSettings,
    MalignancyThreshold,
)

__all__ = ["calibrate_bundle", "cross_fitted_probabilities", "fit_operating_points"]

logger = logging.getLogger(__name__)

WRITTEN_AS_ZERO = 1e-8
"""Taken for a probability that a table of six digits has as 0, which is anything below 5e-7.

Of networks that are three to six times too sure, it moves the fitted temperature least.
"""


def calibrate_bundle(
    bundle: str | Path,
    predictions: str | Path,
    *,
    sensitivities: Sequence[float] = SENSITIVITIES,
    prevalence: float = PREVALENCE,
) -> InferenceSettings:
    """Fit a bundle's temperature and operating points, and keep them in its ``settings.json``.

    Args:
        bundle: a run, ensemble or bundle; its ``settings.json`` is changed.
        predictions: predictions folder, or its table, of images with known class that the network
            was not trained on: the split validation as ``busi-monai evaluate --split validation``
            writes it, or the out-of-fold table of a cross-validation by the same recipe.
        sensitivities: sensitivities for malignancy to fit a threshold for, each in (0, 1].
        prevalence: part of malignant images that predictive values are told for, in (0, 1).

    Returns:
        The new content of ``settings.json``.

    Raises:
        InputError: if the bundle or table is missing, the table has other classes, does not tell
            its temperature, holds no case of known class, or if its network was trained on some of
            its images.
    """
    folder = find_bundle(bundle)
    settings = Bundle(folder).settings
    table = read_predictions(predictions)
    record = _record(predictions)
    classes = table_classes(table)
    if not classes or classes != settings.classes:
        raise InputError(
            f"{predictions} has probabilities of the classes {', '.join(classes) or 'none'}, "
            f"{folder} predicts {', '.join(settings.classes) or 'none'}; both must be the same"
        )
    if record.get("seen_in_training"):
        raise InputError(
            f"{predictions} holds {record['seen_in_training']} images that the network was trained "
            "on, where it is surer than elsewhere; use its split validation, or out-of-fold "
            "predictions"
        )
    rows = _known_rows(table, classes)
    raw = _uncalibrated(rows, classes, _temperatures(rows, record, predictions))
    temperature = round(fit_temperature(_labels(rows, classes), raw), 4)  # thresholds are for it
    rows = _with_probabilities(rows, classes, rescale_probabilities(raw, temperature))
    points = {}
    if MALIGNANT in classes:
        points = fit_operating_points(rows, sensitivities=sensitivities, prevalence=prevalence)
    fitted = replace(
        settings,
        temperature=temperature,
        operating_points=points,
        calibration=_provenance(predictions, table, rows, record, folder),
    )
    fitted.save(folder)
    logger.info("%s: temperature %.3f, fitted on %d images", folder, temperature, len(rows))
    return fitted


def fit_operating_points(
    rows: pd.DataFrame,
    *,
    sensitivities: Sequence[float] = SENSITIVITIES,
    prevalence: float = PREVALENCE,
) -> dict[str, MalignancyThreshold]:
    """Return the thresholds on ``p_malignant`` that reach sensitivities on these very rows.

    Args:
        rows: with ``true_class`` and calibrated ``p_malignant``.
        sensitivities: each in (0, 1].
        prevalence: part of malignant images that predictive values are told for.

    Returns:
        By name, such as ``sensitivity_95``, the highest threshold that reaches it and what comes of
        it. What it comes to on other images is for an evaluation to say.

    Raises:
        InputError: without a malignant case, or for a number out of its range.
    """
    positive = (rows["true_class"] == MALIGNANT).to_numpy()
    scores = rows[f"p_{MALIGNANT}"].to_numpy(dtype=float)
    points = {}
    for sensitivity in sensitivities:
        try:
            threshold = _rounded_down(sensitivity_threshold(positive, scores, sensitivity))
            missed = int((positive & (scores < threshold)).sum())
            false_alarms = int((~positive & (scores >= threshold)).sum())
            positives, negatives = int(positive.sum()), int((~positive).sum())
            specificity = 1 - false_alarms / negatives if negatives else math.nan
            rates = (1 - missed / positives, specificity)
            ppv = float(positive_predictive_value(*rates, prevalence))
            npv = float(negative_predictive_value(*rates, prevalence))
        except ValueError as error:
            raise InputError(f"operating points: {error}") from error
        points[operating_point_name(sensitivity)] = MalignancyThreshold(
            threshold=threshold,
            sensitivity=round(rates[0], 4),
            specificity=round(rates[1], 4),
            ppv=plain_number(ppv, 4),
            npv=plain_number(npv, 4),
            prevalence=prevalence,
            missed=missed,
            positives=positives,
            negatives=negatives,
        )
    return points


def cross_fitted_probabilities(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return an out-of-fold table with calibrated probabilities that stay honest.

    The temperature of a fold's rows is fitted on the rows of all other folds.

    Args:
        table: with ``fold``, and probabilities at temperature 1, or at that of a column
            ``temperature``; with one fold alone it stays as it is.
        classes: the classes that have probability columns, in order.

    Returns:
        A copy with other probabilities, and the column ``temperature`` that they were made with.
    """
    if not classes or table["fold"].nunique() < 2:
        return table
    known = _known_rows(table, classes)
    given = _column(table, "temperature", 1.0)
    pieces, temperatures = probability_matrix(table, classes).copy(), given.copy()
    raw = _uncalibrated(known, classes, _column(known, "temperature", 1.0))
    labels, fold_of_known = _labels(known, classes), known["fold"].to_numpy()
    for fold in table["fold"].unique():
        others, members = fold_of_known != fold, (table["fold"] == fold).to_numpy()
        if not others.any():
            continue
        temperature = round(fit_temperature(labels[others], raw[others]), 4)
        usable = members & ~np.isnan(pieces).any(axis=1)
        pieces[usable] = rescale_probabilities(
            _uncalibrated(table[usable], classes, given[usable]), temperature
        )
        temperatures[members] = temperature
    return _with_probabilities(table, classes, pieces).assign(temperature=temperatures)


def _record(predictions: str | Path) -> dict[str, Any]:
    path = Path(predictions)
    folder = path if path.is_dir() else path.parent
    return Bundle(folder).record or {}


def _known_rows(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    check_predictions(table, classes)
    rows = usable_rows(table)
    rows = rows[rows["true_class"].isin(classes)].reset_index(drop=True)
    if rows.empty:
        raise InputError(f"no row has a prediction and a true class of {', '.join(classes)}")
    return rows


def _temperatures(
    rows: pd.DataFrame, record: dict[str, Any], predictions: str | Path
) -> NDArray[np.float64]:
    if "temperature" in rows.columns:
        return rows["temperature"].to_numpy(dtype=float)
    if "temperature" not in record:
        raise InputError(
            f"{predictions} does not tell the temperature that its probabilities were made with: "
            "it has no such column, and no run.json beside it does; make it by busi-monai evaluate"
        )
    return np.full(len(rows), float(record["temperature"]))


def _uncalibrated(
    rows: pd.DataFrame, classes: Sequence[str], temperatures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the probabilities at temperature 1."""
    found = probability_matrix(rows, classes).copy()
    found[found == 0] = WRITTEN_AS_ZERO
    for temperature in np.unique(temperatures):
        members = temperatures == temperature
        found[members] = rescale_probabilities(found[members], 1 / temperature)
    return found


def _labels(rows: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.int_]:
    return np.array([class_index(name, classes) for name in rows["true_class"]], dtype=int)


def _with_probabilities(
    rows: pd.DataFrame, classes: Sequence[str], probabilities: NDArray[np.float64]
) -> pd.DataFrame:
    return rows.assign(**{f"p_{name}": probabilities[:, k] for k, name in enumerate(classes)})


def _column(table: pd.DataFrame, name: str, default: float) -> NDArray[np.float64]:
    if name not in table.columns:
        return np.full(len(table), default)
    return table[name].fillna(default).to_numpy(dtype=float)


def _rounded_down(threshold: float) -> float:
    """Six digits, never above what was fitted, so that its own image still reaches it."""
    return float(np.floor(threshold * 1e6) / 1e6)


def _provenance(
    predictions: str | Path,
    table: pd.DataFrame,
    rows: pd.DataFrame,
    record: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    path = Path(predictions)
    weights = Bundle(folder).weights
    own = record.get("weights_sha256")
    same = own is not None and weights.is_file() and own == file_sha256(weights)
    return {
        "predictions_sha256": file_sha256(path / "predictions.csv" if path.is_dir() else path),
        "datalist_sha256": record.get("datalist_sha256"),
        "split": split_of(record),
        "out_of_fold": bool("fold" in table.columns and table["fold"].nunique() > 1),
        "same_network": same,
        "images": len(rows),
        "groups": int(pd.Series(row_groups(rows)).nunique()),
    }
