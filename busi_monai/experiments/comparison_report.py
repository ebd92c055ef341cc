"""A comparison's folder: its tables as CSV, Markdown and self-contained HTML, and its image."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.evaluation import TITLES
from busi_monai.evaluation.measures import is_mask_figure
from busi_monai.evaluation.report import markdown_table
from busi_monai.experiments.comparison import HEADER, Comparison
from busi_monai.experiments.systems import COSTS
from busi_monai.files import write_json, write_text
from busi_monai.outputs import check_file, output_folder
from busi_monai.plots.comparison import draw_comparison
from busi_monai.records import RunRecord

__all__ = [
    "comparison_html",
    "comparison_markdown",
    "comparison_table",
    "header_lines",
    "write_comparison",
]

NOTHING = "–"
WHOLE = ("leaks", "seen_in_training")
"""Counts of the header that no evaluation tells for a part of its images."""

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem}"
    "div{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:1rem 0}"
    "th,td{border-bottom:1px solid #ccc;padding:.3rem .7rem;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}"
    "small{color:#666}img{max-width:100%}"
)

Cells = list[list[str]]

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
        draw_comparison(comparison.systems, comparison.reference, comparison.title, TITLES, image)
        write_text(folder / "comparison.csv", _csv(comparison_table(comparison)))
        write_text(folder / "differences.csv", _csv(differences_table(comparison)))
        write_text(folder / "comparison.md", comparison_markdown(comparison, image.name))
        write_text(folder / "comparison.html", comparison_html(comparison, image))
        write_json(folder / "comparison.json", comparison.as_dict())
        record.write(folder, details)
    if markdown is not None:
        write_text(markdown, f"{comparison_markdown(comparison)}\n{MARK}\n")
    return Path(out).absolute()


def comparison_table(comparison: Comparison) -> pd.DataFrame:
    """Return one row a system: name, note, classes, images, costs, figures with low, high, n."""
    parts = {"": "value", "_low": "low", "_high": "high", "_n": "n"}
    names = _figure_names(comparison)
    columns = ["name", "note", "classes", "images", *COSTS]
    columns += [f"{name}{part}" for name in names for part in parts]
    rows = [
        {
            **system,
            **{name: _size(value) for name, value in system.get("costs", {}).items()},
            "classes": " ".join(system.get("classes", [])),
            **{
                f"{name}{part}": figure[key]
                for name, figure in system.get("figures", {}).items()
                for part, key in parts.items()
            },
        }
        for system in comparison.systems
    ]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def differences_table(comparison: Comparison) -> pd.DataFrame:
    """Return one row for each system and figure that has a difference to the reference."""
    columns = ["system", "reference", "figure", "difference", "low", "high", "same_sign", "n"]
    rows = [
        {"system": name, "reference": comparison.reference, "figure": figure, **found}
        for name, figures in comparison.differences.items()
        for figure, found in figures.items()
    ]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def comparison_markdown(comparison: Comparison, image: str | None = None) -> str:
    """Return the comparison as Markdown; ``image`` is a path relative to it."""
    lines = [
        f"# {_escaped(comparison.title)}",
        "",
        NOT_FOR_CLINICAL_USE,
        "",
    ]
    lines += [f"- {_escaped(line)}" for line in header_lines(comparison)]
    for title, cells in _blocks(comparison):
        lines += ["", f"## {_escaped(title)}", "", *_markdown_table(cells)]
    if image:
        lines += ["", f"![Figures with intervals]({image})"]
    return "\n".join([*lines, "", *(_explanations(comparison)), ""])


def comparison_html(comparison: Comparison, image: Path | None = None) -> str:
    """Return the comparison as one HTML file that refers to nothing outside it."""
    parts = [
        f"<h1>{html.escape(comparison.title)}</h1>",
        f"<p>{NOT_FOR_CLINICAL_USE}</p>",
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in header_lines(comparison)),
        "</ul>",
    ]
    for title, cells in _blocks(comparison, by_class=True):
        parts += [f"<h2>{html.escape(title)}</h2>", _html_table(cells)]
    if image is not None:
        data = base64.b64encode(image.read_bytes()).decode("ascii")
        parts.append(f'<img alt="Figures with intervals" src="data:image/png;base64,{data}">')
    parts += [f"<p><small>{html.escape(line)}</small></p>" for line in _explanations(comparison)]
    head = f'<meta charset="utf-8"><title>{html.escape(comparison.title)}</title>'
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def header_lines(comparison: Comparison) -> list[str]:
    """Return what the figures must be stated with, one sentence a line."""
    header = comparison.header
    kept = ", those in common only" if header["common"] else ""
    lines = [f"Images: {header['images']} in {header['groups']} groups{kept}"]
    for name, title in HEADER.items():
        value = header.get(name)
        whole = " (of each whole evaluation)" if header["common"] and name in WHOLE else ""
        if isinstance(value, Mapping) and "by_system" in value:
            told = "; ".join(f"{k}: {_plain(v)}" for k, v in value["by_system"].items())
            lines.append(f"{title}{whole}: {told}")
        elif value is not None:
            lines.append(f"{title}{whole}: {_plain(value)}")
    return lines


def _blocks(comparison: Comparison, *, by_class: bool = False) -> list[tuple[str, Cells]]:
    names = _figure_names(comparison)
    masks = [name for name in TITLES if name in names and is_mask_figure(name)]
    classes = [name for name in TITLES if name in names and not is_mask_figure(name)]
    kinds = [name for name in names if name.startswith("per_class.")] if by_class else []
    blocks = [
        ("Masks", _figure_cells(comparison, masks)),
        ("Classes", _figure_cells(comparison, classes)),
        ("By class", _figure_cells(comparison, kinds)),
        ("Cost", _cost_cells(comparison)),
    ]
    if comparison.differences:
        title = f"Differences to {comparison.reference}"
        blocks += [
            (f"{title}: masks", _difference_cells(comparison, masks)),
            (f"{title}: classes", _difference_cells(comparison, classes)),
        ]
    return [(title, cells) for title, cells in blocks if len(cells[0]) > 1]


def _figure_names(comparison: Comparison) -> list[str]:
    found = dict.fromkeys(
        name
        for system in comparison.systems
        for name, figure in system.get("figures", {}).items()
        if figure["value"] is not None
    )
    return [name for name in TITLES if name in found] + [n for n in found if n not in TITLES]


def _figure_cells(comparison: Comparison, names: Sequence[str]) -> Cells:
    """Cells; an image count is told where it is not that of the reference."""
    (reference,) = [s for s in comparison.systems if s["name"] == comparison.reference]
    cells = [["system", *(_title(name) for name in names)]]
    for system in comparison.systems:
        row = [system["name"]]
        for name in names:
            figure = system.get("figures", {}).get(name)
            usual = reference["figures"].get(name, {}).get("n")
            row.append(NOTHING if figure is None else _interval(figure, usual))
        cells.append(row)
    return cells


def _cost_cells(comparison: Comparison) -> Cells:
    cells = [["system", "Classes", *COSTS.values(), "Note"]]
    for system in comparison.systems:
        costs = system.get("costs", {})
        classes = ", ".join(system["classes"]) if system.get("classes") else NOTHING
        told = [_cost(name, costs.get(name)) for name in COSTS]
        cells.append([system["name"], classes, *told, system["note"]])
    return cells


def _difference_cells(comparison: Comparison, names: Sequence[str]) -> Cells:
    cells = [["system", *(_title(name) for name in names)]]
    for system, figures in comparison.differences.items():
        cells.append([system, *(_difference(figures.get(name)) for name in names)])
    return cells


def _explanations(comparison: Comparison) -> list[str]:
    bootstrap = comparison.header["bootstrap"]
    lines = [
        f"Intervals: {100 * bootstrap['confidence']:.0f} %, {bootstrap['resamples']} bootstrap "
        "resamples of whole groups. They tell of the choice of images, not of training anew. "
        f"{NOTHING}: does not apply, or is not known. n: on that many images, which are not the "
        "reference's.",
    ]
    if comparison.differences:
        lines += [
            "",
            f"Differences: the system's figure minus that of {comparison.reference}, both on the "
            "same resamples of the images that both scored, with the interval and the part of the "
            "resamples in which the difference has that sign. Class figures are compared between "
            "systems of the same classes only.",
        ]
    return lines


def _interval(figure: Mapping[str, Any], usual: int | None) -> str:
    if figure["value"] is None:
        return NOTHING
    text = f"{figure['value']:.3f}"
    if figure["low"] is not None:
        text += f" ({figure['low']:.3f}–{figure['high']:.3f})"
    return text if figure["n"] == usual else f"{text}, n = {figure['n']}"


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return NOTHING
    text = f"{found['difference']:+.3f}"
    if found["low"] is not None:
        text += f" ({found['low']:+.3f} to {found['high']:+.3f})"
    return text if found["same_sign"] is None else f"{text}, {100 * found['same_sign']:.0f} %"


def _cost(name: str, value: Any) -> str:
    if value is None:
        return NOTHING
    if name == "flops":
        return f"{value / 1e9:.3g} G"
    if name == "parameters":
        return f"{value:,}"
    if name == "seconds_per_image":
        return f"{value:.3f}"
    return f"{value:.0f}" if name == "training_seconds" else str(_size(value))


def _size(value: Any) -> Any:
    return "×".join(map(str, value)) if isinstance(value, list) else value


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):  # leaks
        warning = "; good for comparison only" if value["count"] else ""
        return f"{value['count']} of {value['evaluation_images']}{warning}"
    if value is None:
        return NOTHING
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _title(name: str) -> str:
    return TITLES.get(name, name.removeprefix("per_class.").replace(".", " "))


def _csv(table: pd.DataFrame) -> str:
    return str(table.to_csv(index=False, lineterminator="\n"))


def _markdown_table(cells: Cells) -> list[str]:
    head, *rows = [[cell.replace("<", "&lt;") for cell in row] for row in cells]
    return markdown_table(head, rows)


def _html_table(cells: Cells) -> str:
    head, *rows = [[html.escape(cell) for cell in row] for row in cells]
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "<div><table>" + "\n".join(lines) + "</table></div>"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")
