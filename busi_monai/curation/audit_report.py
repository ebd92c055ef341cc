"""The files that an audit leaves: ``audit.json``, ``cases.csv``, and figures of the images."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from busi_monai.cases import CLASSES
from busi_monai.curation.audit import Audit, values_by_class
from busi_monai.datasets import lesion_mask
from busi_monai.errors import ImageReadError
from busi_monai.files import atomic_file, write_json, write_text
from busi_monai.io.images import read_image, write_png
from busi_monai.plots.palette import CLASS_COLOURS, INK, TRUE_OUTLINE

__all__ = [
    "CAPTION",
    "CASE_COLUMNS",
    "PAPER",
    "Sample",
    "caption_font",
    "class_counts_figure",
    "contact_sheets",
    "lesion_pixels_figure",
    "outlined",
    "sample_grid",
    "sizes_figure",
    "write_audit",
]

CAPTION = 18
"""Height of a line of text, in pixels."""
PAPER = (255, 255, 255)

_FRAME = 3
_TILE_HEIGHT = 150
_GAP = 6
_COLUMNS = 6
_SHEET = (1500, 1600)  # width and height
CASE_COLUMNS = (
    "id", "class", "group", "width", "height", "masks", "lesion_pixels", "lesion_fraction",
    "brightness", "artefacts", "duplicate_group", "problems", "sha256", "image",
)  # fmt: skip
"""``duplicate_group`` counts from 1, in the order of ``audit.json``."""

_SAMPLES_PER_CLASS = 6


@dataclass(frozen=True)
class Sample:
    """One image to be shown.

    Attributes:
        id: caption.
        class_name: one of ``CLASSES``.
        pixels: (H, W) uint8.
        mask: (H, W) bool of the same size, or ``None``.
    """

    id: str
    class_name: str
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None = None


def outlined(sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
    """Return an image scaled into a box, with its lesion outlined, as (H, W, 3) uint8 RGB.

    Examples:
        >>> mask = np.zeros((60, 90), dtype=bool)
        >>> mask[20:40, 30:60] = True
        >>> pixels = np.zeros((60, 90), dtype=np.uint8)
        >>> outlined(Sample("benign (1)", "benign", pixels, mask), 180, 180).shape
        (120, 180, 3)
    """
    factor = min(width / sample.pixels.shape[1], height / sample.pixels.shape[0])
    size = (
        max(8, round(sample.pixels.shape[1] * factor)),
        max(8, round(sample.pixels.shape[0] * factor)),
    )
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    grey = cv2.resize(sample.pixels, size, interpolation=method)
    colours = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    if sample.mask is not None and sample.mask.any():
        mask = cv2.resize(sample.mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        contours, _ = cv2.findContours(
            (mask >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(colours, contours, -1, TRUE_OUTLINE, 1, cv2.LINE_AA)
    return np.asarray(colours, dtype=np.uint8)


def sample_tile(sample: Sample, width: int, height: int) -> Image.Image:
    """Return an image within a box, outlined, framed by its class, with its id below."""
    colours = outlined(sample, width, height)
    size = (colours.shape[1], colours.shape[0])
    frame = Image.new("RGB", (size[0] + 2 * _FRAME, height + 2 * _FRAME + CAPTION), PAPER)
    draw = ImageDraw.Draw(frame)
    draw.rectangle(
        (0, 0, size[0] + 2 * _FRAME - 1, size[1] + 2 * _FRAME - 1),
        fill=CLASS_COLOURS[sample.class_name],
    )
    frame.paste(Image.fromarray(colours), (_FRAME, _FRAME))
    draw.text((2, size[1] + 2 * _FRAME), sample.id, INK, font=caption_font())
    return frame


@functools.cache
def caption_font() -> ImageFont.FreeTypeFont:
    """Return the font of every caption, which comes with matplotlib and knows most letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12)


def class_counts_figure(counts: Mapping[str, int]) -> Figure:
    """Return the number of images of each class as bars and as shares of a pie."""
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


def sample_grid(samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """Return samples side by side with their masks outlined, (H, W, 3) uint8."""
    width, height = (_SHEET[0] - _GAP) // _COLUMNS - _GAP, _TILE_HEIGHT + 50
    rows = max(1, -(-len(samples) // _COLUMNS))
    sheet = Image.new("RGB", (_SHEET[0], rows * (height + CAPTION + 2 * _GAP) + _GAP), PAPER)
    for index, sample in enumerate(samples):
        row, column = divmod(index, _COLUMNS)
        tile = sample_tile(sample, width - 6, height)
        left = _GAP + column * (width + _GAP) + (width - tile.width) // 2
        sheet.paste(tile, (left, _GAP + row * (height + CAPTION + 2 * _GAP)))
    return np.asarray(sheet)


def contact_sheets(
    groups: Mapping[int, Sequence[Sample]], conflicts: Collection[int] = ()
) -> Iterator[NDArray[np.uint8]]:
    """Yield pages of near-duplicate groups, each (H, W, 3) uint8.

    Conflicts of class are headed in white on dark.
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


def write_audit(audit: Audit, out: str | Path) -> list[Path]:
    """Write ``audit.json``, ``cases.csv`` and ``figures/`` into a folder.

    Each file is written whole or not at all; give the folder of ``output_folder`` to
    have all or none of them.

    Returns:
        the paths written.
    """
    out = Path(out)
    write_json(out / "audit.json", audit.as_dict())
    write_text(out / "cases.csv", _table(audit))
    return [out / "audit.json", out / "cases.csv", *_write_figures(audit, out / "figures")]


def _table(audit: Audit) -> str:
    numbers = {i: n for n, group in enumerate(audit.duplicates.groups, 1) for i in group}
    kinds: dict[str, list[str]] = {}
    for problem in audit.problems:
        kinds.setdefault(problem.id, []).append(problem.kind)
    text = io.StringIO()
    table = csv.DictWriter(text, CASE_COLUMNS, lineterminator="\n")
    table.writeheader()
    root = audit.listing.root
    for e in audit.examinations:
        case, seen = e.case, e.fingerprint
        image = case.image.relative_to(root) if case.image.is_relative_to(root) else case.image
        table.writerow(
            {
                "id": case.id,
                "class": case.class_name,
                "group": case.group,
                "width": seen.shape[1] if seen else None,
                "height": seen.shape[0] if seen else None,
                "masks": len(case.masks),
                "lesion_pixels": e.lesion_pixels,
                "lesion_fraction": _decimal(e.lesion_fraction),
                "brightness": _decimal(e.brightness),
                "artefacts": " ".join(e.artefacts),
                "duplicate_group": numbers.get(case.id),
                "problems": " ".join(dict.fromkeys(kinds.get(case.id, []))),
                "sha256": seen.sha256 if seen else None,
                "image": image.as_posix(),
            }
        )
    return text.getvalue()


def _decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"


def _write_figures(audit: Audit, folder: Path) -> Iterator[Path]:
    fractions = values_by_class(audit.examinations, lambda e: e.lesion_fraction)
    sizes = values_by_class(audit.examinations, lambda e: e.fingerprint and e.fingerprint.shape)
    lesions = {name: fractions[name] for name in CLASSES[1:]}
    pixels = audit.as_dict()["statistics"]["pixels"]
    for name, figure in {
        "classes": class_counts_figure(audit.listing.class_counts),
        "lesion_pixels": lesion_pixels_figure(lesions, **pixels),
        "sizes": sizes_figure(sizes),
    }.items():
        yield _save(figure, folder / f"{name}.png")
    write_png(folder / "samples.png", sample_grid(list(_samples(audit))))
    yield folder / "samples.png"
    thumbnails = {
        e.case.id: Sample(e.case.id, e.case.class_name, e.fingerprint.thumbnail, e.lesion)
        for e in audit.examinations
        if e.fingerprint is not None
    }
    groups = dict(enumerate(audit.duplicates.groups, start=1))
    among = audit.class_conflicts
    conflicts = [number for number, group in groups.items() if group in among]
    shown = {
        number: [thumbnails[case_id] for case_id in groups[number]]
        for number in sorted(groups, key=lambda n: (n not in conflicts, n))
    }
    for number, page in enumerate(contact_sheets(shown, conflicts), start=1):
        write_png(folder / f"duplicates_{number:02d}.png", page)
        yield folder / f"duplicates_{number:02d}.png"


def _save(figure: Figure, path: Path) -> Path:
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png")
    return path


def _samples(audit: Audit) -> Iterator[Sample]:
    """Yield some sound cases of each class, evenly spread over the dataset."""
    for name in CLASSES:
        sound = [
            e.case
            for e in audit.examinations
            if e.case.class_name == name and e.lesion_pixels is not None
        ]
        picks = np.linspace(0, len(sound) - 1, min(_SAMPLES_PER_CLASS, len(sound)))
        for case in (sound[round(pick)] for pick in picks):
            try:
                pixels = read_image(case.image).pixels
                height, width = pixels.shape
                mask = lesion_mask(case, size=(height, width))
            except (ImageReadError, OSError):  # gone since the audit looked
                continue
            yield Sample(case.id, name, np.round(pixels * 255).astype(np.uint8), mask)
