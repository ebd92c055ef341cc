"""Figures of an evaluation, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from busi_monai.cases import CLASSES, NORMAL, class_index
from busi_monai.metrics import reliability, roc_auc
from busi_monai.plots.canvas import new_axes, save_figure
from busi_monai.plots.palette import CLASS_COLOURS

__all__ = ["draw_evaluation"]

BINS = 10
GRID_COLUMNS = 4


def draw_evaluation(
    rows: pd.DataFrame, metrics: Mapping[str, Any], folder: str | Path
) -> dict[str, Path]:
    """Draw what a table of predictions allows.

    Args:
        rows: as in ``predictions.csv``, those without an error.
        metrics: as from ``evaluate_predictions``.
        folder: gets ``figures/*.png``; if it holds ``overlays/``, the worst and best outlined
            lesions are shown as well.

    Returns:
        Path of each figure by its title.
    """
    folder = Path(folder)
    classes = tuple(metrics["classes"])
    drawn: dict[str, tuple[str, Figure]] = {}
    known = rows[rows["true_class"].isin(classes)]
    if "confusion_matrix" in metrics:
        true = np.array([class_index(name, classes) for name in known["true_class"]])
        probabilities = known[[f"p_{name}" for name in classes]].to_numpy(dtype=float)
        drawn["Confusion matrix"] = "confusion_matrix", _confusion(metrics["confusion_matrix"])
        drawn["ROC curves"] = "roc", _roc(true, probabilities, classes)
        drawn["Reliability"] = "reliability", _reliability(true, probabilities)
    if "dice" in rows.columns and rows["dice"].notna().any():
        drawn["Dice by class"] = "dice_by_class", _dice_histogram(rows)
        for title, name, figure in _lesion_grids(rows, folder):
            drawn[title] = name, figure
    return {
        title: save_figure(figure, folder / "figures" / f"{name}.png")
        for title, (name, figure) in drawn.items()
    }


def _confusion(confusion: Mapping[str, Any]) -> Figure:
    counts, classes = np.array(confusion["counts"]), confusion["classes"]
    figure, axes = new_axes("Predicted class", "True class", size=(4.6, 4.2))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]}\n{100 * shares[row, column]:.0f} %"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.spines[["top", "right"]].set_visible(True)
    return figure


def _roc(
    true: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> Figure:
    from sklearn.metrics import roc_curve

    figure, axes = new_axes("1 − specificity", "Sensitivity", size=(4.6, 4.4))
    for index, name in enumerate(classes):
        positive = true == index
        if positive.all() or not positive.any():
            continue
        false_rate, true_rate, _ = roc_curve(positive, probabilities[:, index])
        (auc,) = roc_auc(positive, probabilities[:, index])
        label = f"{name} against the rest, AUC {auc:.3f}"
        axes.plot(false_rate, true_rate, color=CLASS_COLOURS[name], label=label)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set_aspect("equal")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _reliability(true: NDArray[np.integer], probabilities: NDArray[np.floating]) -> Figure:
    sorted_in = reliability(true, probabilities, BINS)
    filled = sorted_in.count > 0
    figure, axes = new_axes("Probability of the most probable class", "Part that is right")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    confidence, accuracy = sorted_in.confidence[filled], sorted_in.accuracy[filled]
    axes.plot(confidence, accuracy, marker="o", color="#444444")
    for x, y, count in zip(confidence, accuracy, sorted_in.count[filled], strict=True):
        axes.annotate(str(count), (x, y), textcoords="offset points", xytext=(6, -10), fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    return figure


def _dice_histogram(rows: pd.DataFrame) -> Figure:
    figure, axes = new_axes("Dice of an image", "Images")
    present = [name for name in CLASSES if (rows["true_class"] == name).any()]
    values = [rows.loc[rows["true_class"] == name, "dice"].dropna().to_numpy() for name in present]
    colours = [CLASS_COLOURS[name] for name in present]
    axes.hist(values, bins=np.linspace(0, 1, 21), stacked=True, color=colours, label=present)
    if present:
        axes.legend(frameon=False, fontsize=8, loc="upper center")
    return figure


def _lesion_grids(rows: pd.DataFrame, folder: Path) -> list[tuple[str, str, Figure]]:
    lesions = rows[(rows["true_class"] != NORMAL) & rows["dice"].notna()]
    shown = lesions[[(folder / "overlays" / f"{id}.png").is_file() for id in lesions["id"]]]
    if shown.empty:
        return []
    ranked = shown.sort_values("dice", kind="stable")
    return [
        ("Worst outlined lesions", "worst_lesions", _grid(ranked.head(2 * GRID_COLUMNS), folder)),
        ("Best outlined lesions", "best_lesions", _grid(ranked.tail(2 * GRID_COLUMNS), folder)),
    ]


def _grid(rows: pd.DataFrame, folder: Path) -> Figure:
    lines = -(-len(rows) // GRID_COLUMNS)
    figure = Figure(figsize=(3 * GRID_COLUMNS, 3.2 * lines), layout="constrained")
    for position, (id, dice) in enumerate(zip(rows["id"], rows["dice"], strict=True), start=1):
        axes = figure.add_subplot(lines, GRID_COLUMNS, position)
        with Image.open(folder / "overlays" / f"{id}.png") as overlay:
            axes.imshow(np.asarray(overlay))
        # parse_math: a dollar sign in an id is no formula
        axes.set_title(f"{id}: Dice {dice:.2f}", fontsize=8, parse_math=False)
        axes.axis("off")
    return figure
