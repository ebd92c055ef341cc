"""Out-of-fold predictions pooled into one table and measured as one evaluation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from busi_monai.errors import InputError
from busi_monai.evaluation import (
    TITLES,
    cross_fitted_probabilities,
    evaluate_predictions,
    table_classes,
    with_numbers,
    write_evaluation,
)
from busi_monai.evaluation.report import markdown_table
from busi_monai.files import read_json, write_text
from busi_monai.records import RunRecord

__all__ = ["pooled_predictions", "write_pooled"]


def pooled_predictions(folds: Mapping[int, Path]) -> pd.DataFrame:
    """Return the rows of every fold's evaluation as they are written, with the column ``fold``.

    A second column, ``temperature``, tells what the class logits were divided by.

    Args:
        folds: the folds' runs by number.

    Raises:
        InputError: if an image stands in two folds.
    """
    tables = []
    for fold, run in folds.items():
        path = run / "evaluation" / "predictions.csv"
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        table.insert(1, "fold", str(fold))
        record = read_json(run / "evaluation" / "run.json")
        table["temperature"] = str(record.get("temperature", 1.0))
        tables.append(table)
    pooled = pd.concat(tables, ignore_index=True)
    repeated = pooled["id"][pooled["id"].duplicated()].tolist()
    if repeated:
        raise InputError(
            f"{', '.join(repeated[:5])}: predicted in two folds; these runs are not folds of one "
            "prepared dataset"
        )
    return pooled


def write_pooled(
    out: Path,
    folds: Mapping[int, Path],
    record: RunRecord,
    details: Mapping[str, Any],
    *,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Write what the finished folds tell together, and return the content of ``metrics.json``.

    Args:
        out: the cross-validation's folder; gets ``predictions.csv``, ``metrics.json``,
            ``report.md``, ``figures/`` and ``run.json``.
        folds: the finished folds' runs by number.
        record: begun when the cross-validation was.
        details: bundle, configs, and the number of ``folds`` there are.
        resamples: bootstrap resamples of the groups.
    """
    calibration = _write_table(out, pooled_predictions(folds))
    measured = {k: read_json(run / "evaluation" / "metrics.json") for k, run in folds.items()}
    runs = {k: read_json(run / "run.json") for k, run in folds.items()}
    evaluations = {k: read_json(run / "evaluation" / "run.json") for k, run in folds.items()}
    first = next(iter(measured.values()))
    provenance = {
        "protocol": first["protocol"],
        "datalist_sha256": first["datalist_sha256"],
        "labels_sha256": first.get("labels_sha256") if _same_labels(measured) else None,
        "split": "reported",
        "fold": None,
        "fold_ids": list(folds),
        "leaks": _summed_leaks(measured),
        "calibration": calibration,
        "seen_in_training": _summed_seen(measured),
        "folds": [_fold_figures(k, found) for k, found in measured.items()],
    }
    counts = {name: sum(e["counts"][name] for e in evaluations.values()) for name in _COUNTS}
    record.failures = [failed for e in evaluations.values() for failed in e["failures"]]
    record.write(
        out,
        {
            **details,
            "finished_folds": list(folds),
            "missing_folds": [k for k in range(details["folds"]) if k not in folds],
            "classes": first["classes"],
            "counts": counts,
            "device": next(iter(evaluations.values()))["device"],
            "precision": next(iter(evaluations.values()))["precision"],
            "weights_sha256_by_fold": {
                str(k): run.get("weights_sha256") for k, run in runs.items()
            },
            "training": _pooled_training(runs),
        },
    )
    metrics = write_evaluation(out, provenance=provenance, resamples=resamples)
    report = (out / "report.md").read_text("utf-8")
    write_text(out / "report.md", report + "\n".join(_fold_lines(metrics, details["folds"])))
    return metrics


_COUNTS = ("predicted", "failed")


def _write_table(out: Path, pooled: pd.DataFrame) -> dict[str, Any] | None:
    """Write the pooled table with probabilities calibrated across folds, and tell how.

    Returns:
        Each fold's temperature, and the calibration error that there was without; ``None`` without
        a class head.
    """
    classes = table_classes(pooled)
    table = with_numbers(pooled, "the folds' predictions")
    calibrated = cross_fitted_probabilities(table, classes)
    for name in (*(f"p_{name}" for name in classes), "temperature"):
        pooled[name] = [_cell(value) for value in calibrated[name]]
    write_text(out / "predictions.csv", pooled.to_csv(index=False, lineterminator="\n"))
    if not classes:
        return None
    before = evaluate_predictions(table, classes=classes, resamples=1)["ece"]["value"]
    by_fold = calibrated.groupby("fold")["temperature"].first()
    return {
        "fitted_on": "the other folds" if len(by_fold) > 1 else None,
        "temperatures": {f"{fold:g}": float(value) for fold, value in by_fold.items()},
        "ece_uncalibrated": before,
    }


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _pooled_training(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return one training record for all folds: time summed, epochs averaged."""
    first = next(iter(runs.values()))
    known = {
        name: first[name]
        for name in ("seed", "max_epochs", "device", "precision", "network")
        if name in first
    }
    epochs = {str(k): run.get("epochs") for k, run in runs.items()}
    counted = [value for value in epochs.values() if value is not None]
    return {
        **known,
        "seconds": round(sum(run.get("seconds", 0.0) for run in runs.values()), 3),
        "epochs": round(statistics.mean(counted)) if counted else None,
        "epochs_by_fold": epochs,
    }


def _same_labels(measured: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether all folds tell the same masks: an earlier version's tell none."""
    told = [metrics.get("labels_sha256") for metrics in measured.values()]
    return all(labels == told[0] for labels in told)


def _summed_leaks(measured: Mapping[int, Mapping[str, Any]]) -> dict[str, int] | None:
    found = [metrics["leaks"] for metrics in measured.values() if metrics.get("leaks")]
    if not found:
        return None
    return {name: sum(leaks[name] for leaks in found) for name in ("count", "evaluation_images")}


def _summed_seen(measured: Mapping[int, Mapping[str, Any]]) -> int | None:
    found = [metrics.get("seen_in_training") for metrics in measured.values()]
    known = [count for count in found if count is not None]
    return sum(known) if len(known) == len(found) else None


def _fold_figures(fold: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: metrics[name] for name in (*TITLES, "per_class") if name in metrics}
    return {"fold": fold, "images": metrics["images"], "groups": metrics["groups"], **kept}


def _fold_lines(metrics: Mapping[str, Any], count: int) -> list[str]:
    folds = metrics["folds"]
    missing = count - len(folds)
    lines = ["", "## By fold", ""]
    if missing:
        lines += [f"{missing} of {count} folds are not finished: the figures above lack them.", ""]
    rows: list[list[Any]] = [["images", *(found["images"] for found in folds), ""]]
    for name, title in TITLES.items():
        values = [found.get(name, {}).get("value") for found in folds]
        if any(value is not None for value in values):
            cells = ["–" if value is None else f"{value:.3f}" for value in values]
            rows.append([title, *cells, _spread(values)])
    head = ["", *(f"fold {found['fold']}" for found in folds), "mean ± deviation"]
    return [
        *lines,
        *markdown_table(head, rows),
        "",
        "The figures at the top are of all images pooled, each predicted by the network that was "
        "not trained on its fold; the deviation is between folds, which share training images.",
        "",
    ]


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    deviation = statistics.stdev(known) if len(known) > 1 else math.nan
    return f"{statistics.mean(known):.3f}" + (
        "" if math.isnan(deviation) else f" ± {deviation:.3f}"
    )
