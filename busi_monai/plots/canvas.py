"""Axes to draw on and images to keep, without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from busi_monai.files import atomic_file

__all__ = ["new_axes", "save_figure"]


def new_axes(
    x_label: str, y_label: str, size: tuple[float, float] = (5.4, 3.8)
) -> tuple[Figure, Any]:
    """Return a figure of a size in inches, and its axes without the upper and right line."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, and return the path."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    return path
