"""Figures of ``metrics.json`` as the cells of Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_monai.files import read_json

__all__ = [
    "FIGURES",
    "figure_cell",
    "figure_columns",
    "figure_rows",
    "is_known",
    "kept_metrics",
    "markdown",
    "number_of",
]

FIGURES = {
    "lesion_dice": "lesion Dice",
    "lesion_iou": "lesion IoU",
    "all_dice": "Dice, all images",
    "mean_iou": "mean IoU of lesion and background",
    "normal_clean_rate": "normals left clean",
    "pixel_accuracy": "pixel accuracy",
    "hd95_px": "95 % Hausdorff distance, px",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auc_macro": "AUC, mean one against rest",
    "auc_malignant": "AUC, malignant against rest",
    "auc_benign_malignant": "AUC, benign against malignant",
    "ece": "expected calibration error",
}
"""Figures in the order of the tables, by their names in ``metrics.json``."""


def kept_metrics(results: Path, places: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the ``metrics.json`` of the places that have one, by title."""
    paths = {title: results / place / "metrics.json" for title, place in places.items() if place}
    return {title: dict(read_json(path)) for title, path in paths.items() if path.is_file()}


def figure_columns(
    results: Path,
    places: Mapping[str, str],
    rows_of: Callable[[Mapping[str, Any]], Mapping[str, str]],
) -> str:
    """Return a table with a column for each place, by its title, and a row for each figure."""
    columns = {title: rows_of(metrics) for title, metrics in kept_metrics(results, places).items()}
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    rows = [[name, *(found.get(name, "–") for found in columns.values())] for name in names]
    return markdown(["figure", *columns], rows)


def figure_rows(
    metrics: Mapping[str, Any], names: Sequence[str] = tuple(FIGURES)
) -> dict[str, str]:
    """Return a cell for each known figure by its title, and the numbers of images and groups."""
    images = metrics["images"]
    return {"images, groups": f"{images}, {metrics['groups']}"} | {
        title: figure_cell(metrics[name])
        + ("" if metrics[name]["n"] == images else number_of(metrics[name]))
        for name, title in FIGURES.items()
        if name in names and is_known(metrics.get(name))
    }


def figure_cell(figure: Mapping[str, Any]) -> str:
    """Return a figure with its interval.

    Examples:
        >>> figure_cell({"value": 0.75, "low": 0.7, "high": 0.8})
        '0.750 (0.700–0.800)'
    """
    if figure["value"] is None:
        return "–"
    digits = 1 if figure["value"] > 2 else 3
    if figure["low"] is None:  # a class is missing in too many resamples
        return f"{figure['value']:.{digits}f}"
    interval = f"{figure['low']:.{digits}f}–{figure['high']:.{digits}f}"
    return f"{figure['value']:.{digits}f} ({interval})"


def number_of(figure: Mapping[str, Any]) -> str:
    """Return on how many images a figure rests."""
    return f", n = {figure['n']}"


def is_known(figure: Any) -> bool:
    """Return whether this is a figure that is defined."""
    return isinstance(figure, Mapping) and figure.get("value") is not None


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
