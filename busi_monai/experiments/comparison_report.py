"""A comparison's folder: one table as CSV, Markdown, HTML and image, and the differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from busi_monai.evaluation import TITLES
from busi_monai.experiments.comparison import Comparison
from busi_monai.experiments.comparison_tables import (
    comparison_csv,
    comparison_html,
    comparison_markdown,
    differences_csv,
)
from busi_monai.files import write_json, write_text
from busi_monai.outputs import check_file, output_folder
from busi_monai.plots.palette import INK, MUTED
from busi_monai.records import RunRecord

__all__ = ["draw_comparison", "write_comparison"]

COLUMNS = 3
MARK = "<!-- written by busi-monai compare -->"
"""Last line of a Markdown file of its own, by which it may be replaced."""


def write_comparison(
    comparison: Comparison,
    out: str | Path,
    *,
    overwrite: bool = False,
    markdown: str | Path | None = None,
    details: Mapping[str, Any] | None = None,
    reads: Iterable[str | Path] = (),
) -> Path:
    """Write a comparison's folder, whole or not at all.

    Args:
        comparison: what was found.
        out: gets ``comparison.csv``, ``.md``, ``.html``, ``.png`` and ``.json``,
            ``differences.csv`` and ``run.json``.
        overwrite: replace an earlier comparison.
        markdown: file to write the Markdown into as well, without the image; an earlier one is
            replaced.
        details: what else ``run.json`` tells.
        reads: folders that the systems were read from.

    Raises:
        InputError: if ``out`` is refused, or ``markdown`` is a file of another origin.
    """
    record = RunRecord()
    if markdown is not None:
        check_file(markdown, MARK, overwrite=True)
    with output_folder(out, "compare", reads=reads, overwrite=overwrite) as folder:
        image = folder / "comparison.png"
        draw_comparison(comparison, image)
        write_text(folder / "comparison.csv", comparison_csv(comparison))
        write_text(folder / "differences.csv", differences_csv(comparison))
        write_text(folder / "comparison.md", comparison_markdown(comparison, image.name))
        write_text(folder / "comparison.html", comparison_html(comparison, image))
        write_json(folder / "comparison.json", comparison.as_dict())
        record.write(folder, details)
    if markdown is not None:
        write_text(markdown, f"{comparison_markdown(comparison)}\n{MARK}\n")
    return Path(out).absolute()


def draw_comparison(comparison: Comparison, image: Path) -> None:
    """Draw every figure of every system with its interval, one panel a figure."""
    systems = [system for system in comparison.systems if "figures" in system]
    names = [name for name in TITLES if any(_value(system, name) is not None for system in systems)]
    lines = -(-len(names) // COLUMNS)
    height = 0.75 + 0.26 * len(systems)
    figure = Figure(figsize=(4.6 * COLUMNS, max(height * lines, 2)), layout="constrained")
    figure.suptitle(comparison.title, fontsize=11, parse_math=False)
    for position, name in enumerate(names):
        axes = figure.add_subplot(lines, COLUMNS, position + 1)
        _panel(axes, name, systems, comparison.reference)
        if position % COLUMNS:
            axes.set_yticklabels([])
    FigureCanvasAgg(figure)
    figure.savefig(image, dpi=120, format="png")


def _panel(axes: Any, name: str, systems: list[dict[str, Any]], reference: str) -> None:
    axes.set_title(TITLES[name], fontsize=9)
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
