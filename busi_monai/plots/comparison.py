"""A comparison's image: every figure of every system with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from busi_monai.plots.canvas import save_figure
from busi_monai.plots.palette import INK, MUTED

__all__ = ["draw_comparison"]

COLUMNS = 3


def draw_comparison(
    systems: Sequence[Mapping[str, Any]],
    reference: str,
    title: str,
    titles: Mapping[str, str],
    image: Path,
) -> None:
    """Draw one panel for each figure that a system has.

    Args:
        systems: as in ``comparison.json``; those without ``figures`` are left out.
        reference: name of the system that stands out.
        title: of the image.
        titles: of the panels by the figures' names.
        image: the PNG to write.
    """
    systems = [system for system in systems if "figures" in system]
    names = [name for name in titles if any(_value(system, name) is not None for system in systems)]
    lines = -(-len(names) // COLUMNS)
    height = 0.75 + 0.26 * len(systems)
    figure = Figure(figsize=(4.6 * COLUMNS, max(height * lines, 2)), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    for position, name in enumerate(names):
        axes = figure.add_subplot(lines, COLUMNS, position + 1)
        axes.set_title(titles[name], fontsize=9)
        _panel(axes, name, systems, reference)
        if position % COLUMNS:
            axes.set_yticklabels([])
    save_figure(figure, image)


def _panel(axes: Any, name: str, systems: Sequence[Mapping[str, Any]], reference: str) -> None:
    for row, system in enumerate(systems):
        value = _value(system, name)
        if value is None:
            axes.text(0.01, row, "–", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
            continue
        figure = system["figures"][name]
        colour = INK if system["name"] == reference else MUTED
        if figure["low"] is not None:
            axes.plot([figure["low"], figure["high"]], [row, row], color=colour, linewidth=1.5)
        axes.plot([value], [row], marker="o", markersize=4, color=colour)
        place = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7}
        axes.text(1.01, row, f"{value:.3f}", **place)
        if system["name"] == reference:
            axes.axvline(value, color=colour, linewidth=0.6, linestyle=":")
    axes.set_ylim(len(systems) - 0.4, -0.6)
    labels = axes.set_yticks(range(len(systems)), [system["name"] for system in systems])
    for label in labels:
        label.label1.set(fontsize=8, parse_math=False)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _value(system: Mapping[str, Any], name: str) -> float | None:
    value: float | None = system["figures"].get(name, {}).get("value")
    return value
