"""Images of a dataset: classes, lesion pixels, sizes, samples with outlines, contact sheets.

Every function takes plain data and returns either a matplotlib figure or RGB pixels; nothing is
shown or written here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from busi_monai.cases import CLASSES
from busi_monai.curation.sample_tiles import (
    CAPTION,
    PAPER,
    Sample,
    caption_font,
    sample_tile,
)
from busi_monai.plots.palette import CLASS_COLOURS, INK

__all__ = ["class_counts_figure", "contact_sheets", "lesion_pixels_figure", "sample_grid",
           "sizes_figure"]  # fmt: skip

_TILE_HEIGHT = 150
_GAP = 6
_SHEET = (1500, 1600)  # width and height


def class_counts_figure(counts: Mapping[str, int]) -> Figure:
    """Return the number of images of each class as bars and as shares of a pie.

    Args:
        counts: images by class name.
    """
    figure = _figure(9, 3.8)
    bars, pie = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [name for name in CLASSES if name in counts]
    values = [counts[name] for name in names]
    colours = [CLASS_COLOURS[name] for name in names]
    drawn = bars.bar(names, values, color=colours, width=0.6)
    bars.bar_label(drawn, padding=3)
    bars.set_ylabel("images")
    bars.margins(y=0.12)
    bars.spines[["top", "right"]].set_visible(False)
    present = [(n, v, c) for n, v, c in zip(names, values, colours, strict=True) if v]
    if present:
        _, _, shares = pie.pie(
            [value for _, value, _ in present],
            labels=[name for name, _, _ in present],
            colors=[colour for _, _, colour in present],
            autopct="%.1f %%",
            startangle=90,
            counterclock=False,
            wedgeprops={"edgecolor": "white", "linewidth": 1.5},
            textprops={"fontsize": 9},
        )
        for share in shares:
            share.set_color("white")
    figure.suptitle(f"{sum(values)} images by class")
    return figure


def lesion_pixels_figure(
    fractions: Mapping[str, Sequence[float]], lesion: int, background: int
) -> Figure:
    """Return how much of the images is lesion: per image by class, and in all.

    Args:
        fractions: share of lesion pixels of each image, in [0, 1], by class name.
        lesion: lesion pixels of all images.
        background: the other pixels of all images.
    """
    figure = _figure(9, 3.8)
    spread, whole = figure.subplots(1, 2, width_ratios=(4, 1))
    named = {name: np.asarray(fractions[name]) * 100 for name in CLASSES if fractions.get(name)}
    top = max((float(values.max()) for values in named.values()), default=1.0)
    bins = np.linspace(0, max(top, 1.0), 31)
    for name, values in named.items():
        label = f"{name}: median {np.median(values):.1f} % of {len(values)}"
        spread.hist(values, bins, color=CLASS_COLOURS[name], alpha=0.6, label=label)
    spread.set_xlabel("lesion pixels of an image, %")
    spread.set_ylabel("images")
    spread.spines[["top", "right"]].set_visible(False)
    if named:
        spread.legend(frameon=False)
    total = max(lesion + background, 1)
    for bottom, value, colour, name in (
        (0, lesion, "#555555", "lesion"),
        (lesion, background, "#d9d9d9", "background"),
    ):
        share = 100 * value / total
        whole.bar([0], [share], bottom=[100 * bottom / total], color=colour, width=0.5)
        whole.text(0.3, 100 * bottom / total + share / 2, f"{name}\n{share:.1f} %", va="center")
    whole.set(xlim=(-0.3, 0.9), ylim=(0, 100), xticks=[], ylabel="% of all pixels")
    whole.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle("Lesion and background pixels")
    return figure


def sizes_figure(sizes: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Return widths against heights, one dot per image.

    Args:
        sizes: (height, width) of each image in px, by class name.
    """
    figure = _figure(7, 4.6)
    axes = figure.subplots()
    for name in CLASSES:
        if sizes.get(name):
            heights, widths = zip(*sizes[name], strict=True)
            axes.scatter(
                widths, heights, s=14, alpha=0.55, color=CLASS_COLOURS[name], label=name, lw=0
            )
    axes.set(xlabel="width, px", ylabel="height, px", title="Sizes of the images", aspect="equal")
    axes.autoscale()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if any(sizes.values()):
        axes.legend(frameon=False)
    return figure


def sample_grid(samples: Sequence[Sample], columns: int = 6) -> NDArray[np.uint8]:
    """Return samples side by side with their masks outlined, (H, W, 3) uint8.

    Args:
        samples: in reading order.
        columns: of the grid.
    """
    width, height = (_SHEET[0] - _GAP) // columns - _GAP, _TILE_HEIGHT + 50
    rows = max(1, -(-len(samples) // columns))
    sheet = Image.new("RGB", (_SHEET[0], rows * (height + CAPTION + 2 * _GAP) + _GAP), PAPER)
    for index, sample in enumerate(samples):
        row, column = divmod(index, columns)
        tile = sample_tile(sample, width - 6, height)
        left = _GAP + column * (width + _GAP) + (width - tile.width) // 2
        sheet.paste(tile, (left, _GAP + row * (height + CAPTION + 2 * _GAP)))
    return np.asarray(sheet)


def contact_sheets(
    groups: Mapping[int, Sequence[Sample]], conflicts: Collection[int] = ()
) -> Iterator[NDArray[np.uint8]]:
    """Yield pages of near-duplicate groups, each (H, W, 3) uint8.

    Conflicts of class are headed in white on dark.

    Args:
        groups: the images of each group by its number, in the order in which they are shown.
        conflicts: numbers of the groups whose classes contradict each other.
    """
    page = Image.new("RGB", _SHEET, PAPER)
    left = top = _GAP
    height = 0
    for number, group in groups.items():
        for row in _group_rows(number, group, conflict=number in conflicts):
            if left > _GAP and left + row.width > _SHEET[0]:
                left, top, height = _GAP, top + height + 2 * _GAP, 0
            if top > _GAP and top + row.height > _SHEET[1]:
                yield np.asarray(page.crop((0, 0, _SHEET[0], top)))
                page = Image.new("RGB", _SHEET, PAPER)
                left, top = _GAP, _GAP
            page.paste(row, (left, top))
            left += row.width + 3 * _GAP
            height = max(height, row.height)
    if groups:
        yield np.asarray(page.crop((0, 0, _SHEET[0], min(_SHEET[1], top + height + _GAP))))


def _group_rows(number: int, group: Sequence[Sample], *, conflict: bool) -> Iterator[Image.Image]:
    """Yield a group as rows that fit a page, under one heading."""
    tiles = [sample_tile(sample, 2 * _TILE_HEIGHT, _TILE_HEIGHT) for sample in group]
    classes = list(dict.fromkeys(sample.class_name for sample in group))
    heading = f"group {number}: {' / '.join(classes)}" + (" (class conflict)" if conflict else "")
    ink, paper = (PAPER, INK) if conflict else (INK, PAPER)
    rows: list[list[Image.Image]] = [[]]
    for tile in tiles:
        used = sum(t.width + _GAP for t in rows[-1])
        if rows[-1] and used + tile.width > _SHEET[0] - 2 * _GAP:
            rows.append([])
        rows[-1].append(tile)
    for index, row in enumerate(rows):
        width = max(sum(t.width + _GAP for t in row), 10 * len(heading))
        strip = Image.new("RGB", (min(width, _SHEET[0]), CAPTION + row[0].height), PAPER)
        if index == 0:
            draw = ImageDraw.Draw(strip)
            draw.rectangle((0, 0, caption_font().getlength(heading), CAPTION - 2), fill=paper)
            draw.text((0, 1), heading, ink, font=caption_font())
        left = 0
        for tile in row:
            strip.paste(tile, (left, CAPTION))
            left += tile.width + _GAP
        yield strip


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
