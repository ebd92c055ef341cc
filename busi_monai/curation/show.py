"""Images of a prepared dataset: chosen or random images beside their outlines, and charts."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from busi_monai.cases import CLASSES, class_index
from busi_monai.curation.audit_report import (
    CAPTION,
    PAPER,
    Sample,
    caption_font,
    class_counts_figure,
    lesion_pixels_figure,
    outlined,
    sizes_figure,
)
from busi_monai.curation.datalist import items_of_split, load_datalist
from busi_monai.errors import ImageReadError, InputError
from busi_monai.files import atomic_file
from busi_monai.io.images import read_image, read_mask
from busi_monai.outputs import check_file, output_folder
from busi_monai.plots.palette import CLASS_COLOURS, INK
from busi_monai.records import RunRecord

__all__ = ["SHEET_SUFFIXES", "choose_items", "draw_charts", "draw_sheet", "sample_pairs"]

SHEET_SUFFIXES = (".png", ".pdf")
"""What ``draw_sheet`` writes, by the file's suffix."""

Progress = Callable[[Sequence[Any]], Iterable[Any]]
Failures = list[tuple[str, str]]

_TILE = (300, 260)  # width and height of the box that an image is scaled into
_GAP = 8
_COLUMNS = 3
_ROWS_OF_A_PAGE = 4
_DPI = 150
_MARK = "busi-monai show"
"""Stands in every file that is drawn, by which it may be replaced."""


def choose_items(
    prepared: str | Path,
    *,
    n: int | None = None,
    class_names: Sequence[str] = (),
    ids: Sequence[str] = (),
    split: str | None = None,
    fold: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return images of a prepared dataset: those named, or some drawn at random.

    Args:
        prepared: the prepared dataset.
        n: how many to draw; ``None`` takes all, and fewer are returned where there are no more.
        class_names: draw from these classes only.
        ids: take exactly these, in this order, of whatever split.
        split: draw from this split only: ``train``, ``validation``, ``test`` or ``reported``.
        fold: the reported fold, where a dataset with folds is to be split.
        seed: of the draw: the same seed and dataset give the same images.

    Returns:
        The datalist's items, in its order, with absolute ``image`` and ``label``. Single-mask
        copies, which show an image a second time, are only taken by their id.

    Raises:
        InputError: if the dataset, a split, class or id is not there (the nearest ids are named),
            or nothing is left to draw from.
    """
    datalist = load_datalist(prepared)
    if fold is not None and not (split and datalist.folds):
        reason = "it has no folds" if split else "say with split which images of it"
        raise InputError(f"{prepared}: fold {fold} is not to be had: {reason}")
    base = Path(prepared).absolute()
    base = base if base.is_dir() else base.parent
    if ids:
        if class_names or split is not None:
            raise InputError("ids are taken from the whole dataset: leave class and split out")
        chosen = _by_id(datalist.records(), ids, prepared)
    else:
        pool: Sequence[Mapping[str, Any]] = (
            datalist.records()
            if split is None
            else items_of_split(datalist, split, fold=fold, where=prepared)
        )
        labels = {class_index(name) for name in class_names} or set(range(len(CLASSES)))
        whole = [item for item in pool if "part_of" not in item["meta"]]
        found = [item for item in whole if item["class_label"] in labels]
        if not found:
            held = Counter(CLASSES[item["class_label"]] for item in whole)
            counts = ", ".join(f"{name} {held[name]}" for name in CLASSES)
            where = "" if split is None else f" in the split {split}"
            raise InputError(f"{prepared}: no image of {', '.join(class_names)}{where} ({counts})")
        count = len(found) if n is None else min(n, len(found))
        picks = np.random.default_rng(seed).choice(len(found), count, replace=False)
        chosen = [found[pick] for pick in sorted(picks)]
    return [
        {
            **item,
            "image": str(base / item["image"]),
            "label": None if item["label"] is None else str(base / item["label"]),
        }
        for item in chosen
    ]


def _by_id(
    records: Sequence[Mapping[str, Any]], ids: Sequence[str], prepared: str | Path
) -> list[Mapping[str, Any]]:
    known = {item["id"]: item for item in records}
    for name in ids:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            advice = f"; the nearest are {', '.join(map(repr, nearest))}" if nearest else ""
            raise InputError(f"{prepared} has no image {name!r}{advice}")
    return [known[name] for name in dict.fromkeys(ids)]


def draw_sheet(
    items: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = list,
) -> Failures:
    """Draw images beside their outlines into a PNG, or a PDF of several pages.

    Args:
        items: as from ``choose_items``.
        out: the file; its suffix says which.
        overwrite: replace an earlier file of this function.
        progress: wraps the items while they are read.

    Returns:
        ``(file, reason)`` of the images that could not be read, which are left out.

    Raises:
        InputError: if the suffix is another, or the file is there and is not to be replaced.
        ImageReadError: if no image at all could be read; nothing is written then.
    """
    out = Path(out)
    if out.suffix.lower() not in SHEET_SUFFIXES:
        raise InputError(f"{out}: expected a name that ends in {' or '.join(SHEET_SUFFIXES)}")
    check_file(out, _MARK, overwrite=overwrite)
    samples, failures = [], []
    for item in progress(items):
        try:
            samples.append(_read(item))
        except (ImageReadError, OSError) as error:
            failures.append((item["image"], str(error)))
    if not samples:
        raise ImageReadError(f"no image could be read; the first: {failures[0][1]}")
    paged = out.suffix.lower() == ".pdf"
    of_a_page = _ROWS_OF_A_PAGE * _COLUMNS if paged else len(samples)
    pages = [
        sample_pairs(samples[start : start + of_a_page])
        for start in range(0, len(samples), of_a_page)
    ]
    with atomic_file(out) as partial:
        if paged:
            pages[0].save(
                partial,
                format="PDF",
                save_all=True,
                append_images=pages[1:],
                resolution=_DPI,
                creator=_MARK,
            )
        else:
            mark = PngInfo()
            mark.add_text("Software", _MARK)
            pages[0].save(partial, format="PNG", compress_level=3, dpi=(_DPI, _DPI), pnginfo=mark)
    return failures


def sample_pairs(samples: Sequence[Sample]) -> Image.Image:
    """Return images, each beside itself with its lesion outlined, id and class below."""
    columns = min(_COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    width, height = 2 * _TILE[0] + 2 * _GAP, _TILE[1] + CAPTION + 2 * _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, sample in enumerate(samples):
        row, column = divmod(index, columns)
        left, top = _GAP + column * width, _GAP + row * height
        plain = Sample(sample.id, sample.class_name, sample.pixels)
        for place, shown in enumerate((plain, sample)):
            tile = Image.fromarray(outlined(shown, *_TILE))
            across = left + place * (_TILE[0] + _GAP // 2) + (_TILE[0] - tile.width) // 2
            sheet.paste(tile, (across, top + (_TILE[1] - tile.height) // 2))
        below = top + _TILE[1] + 2
        draw.text((left + CAPTION, below), _caption(sample), INK, font=caption_font())
        draw.rectangle(
            (left, below + 2, left + CAPTION - 6, below + CAPTION - 4),
            fill=CLASS_COLOURS[sample.class_name],
        )
    return sheet


def draw_charts(
    prepared: str | Path,
    items: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = list,
) -> Failures:
    """Draw classes, lesion pixels and sizes of a prepared dataset into a folder.

    Args:
        prepared: the prepared dataset, for the record.
        items: what is counted, as from ``choose_items``.
        out: the folder to make, of PNG files and a ``run.json``.
        overwrite: replace earlier charts.
        progress: wraps the items while they are read.

    Returns:
        ``(file, reason)`` of the images that could not be read, which are not counted.

    Raises:
        InputError: if ``out`` is not empty and is not to be replaced.
    """
    record = RunRecord()
    counts = dict.fromkeys(CLASSES, 0)
    fractions: dict[str, list[float]] = {name: [] for name in CLASSES[1:]}
    sizes: dict[str, list[tuple[int, int]]] = {name: [] for name in CLASSES}
    pixels = {"lesion": 0, "background": 0}
    with output_folder(out, "show", reads=[prepared], overwrite=overwrite) as folder:
        for item in progress(items):
            try:
                sample = _read(item)
            except (ImageReadError, OSError) as error:
                record.fail(item["image"], error)
                continue
            counts[sample.class_name] += 1
            sizes[sample.class_name].append((sample.pixels.shape[0], sample.pixels.shape[1]))
            if sample.mask is None:
                continue
            lesion = int(sample.mask.sum())
            pixels["lesion"] += lesion
            pixels["background"] += sample.mask.size - lesion
            if sample.class_name in fractions:
                fractions[sample.class_name].append(lesion / sample.mask.size)
        for name, figure in {
            "classes": class_counts_figure(counts),
            "lesion_pixels": lesion_pixels_figure(fractions, **pixels),
            "sizes": sizes_figure(sizes),
        }.items():
            figure.savefig(folder / f"{name}.png", format="png")
        record.write(
            folder,
            {
                "datalist_sha256": load_datalist(prepared).sha256,
                "labels_sha256": load_datalist(prepared).labels_sha256,
                "counts": {"images": sum(counts.values()), **counts},
                "pixels": pixels,
            },
        )
    return [(failure["file"], failure["message"]) for failure in record.failures]


def _read(item: Mapping[str, Any]) -> Sample:
    pixels = read_image(item["image"]).pixels
    mask = None if item["label"] is None else read_mask(item["label"])
    if mask is not None and mask.shape != pixels.shape:
        raise ImageReadError(
            f"{item['label']}: expected the size of its image, {pixels.shape[1]}×"
            f"{pixels.shape[0]} pixels, found {mask.shape[1]}×{mask.shape[0]}"
        )
    name = CLASSES[item["class_label"]]
    return Sample(item["id"], name, np.round(pixels * 255).astype(np.uint8), mask)


def _caption(sample: Sample) -> str:
    """Return id and class, shortened to the room that a pair has."""
    what = sample.class_name if sample.mask is not None else f"{sample.class_name}, no mask"
    room = 2 * _TILE[0] - CAPTION
    name, text = sample.id, f"{sample.id}: {what}"
    while len(name) > 1 and caption_font().getlength(text) > room:
        name = name[:-1]
        text = f"{name}…: {what}"
    return text
