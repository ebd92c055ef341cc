"""The files that an audit leaves: ``audit.json``, ``cases.csv`` and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from busi_monai.cases import CLASSES
from busi_monai.datasets import lesion_mask
from busi_monai.errors import ImageReadError
from busi_monai.files import atomic_file, write_json, write_text
from busi_monai.io.images import read_image, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from busi_monai.curation.audit import Audit
    from busi_monai.curation.examination import Examination
    from busi_monai.curation.sample_tiles import Sample

__all__ = ["CASE_COLUMNS", "write_audit"]

CASE_COLUMNS = (
    "id", "class", "group", "width", "height", "masks", "lesion_pixels", "lesion_fraction",
    "brightness", "artefacts", "duplicate_group", "problems", "sha256", "image",
)  # fmt: skip
"""Columns of ``cases.csv``. ``duplicate_group`` counts from 1 in the order of ``audit.json``; lists
within a cell are divided by blanks."""

_SAMPLES_PER_CLASS = 6


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
    for examination in audit.examinations:
        row = _row(examination, audit.listing.root)
        row["duplicate_group"] = numbers.get(examination.case.id)
        row["problems"] = " ".join(dict.fromkeys(kinds.get(examination.case.id, [])))
        table.writerow(row)
    return text.getvalue()


def _row(examination: Examination, root: Path) -> dict[str, Any]:
    case, seen = examination.case, examination.fingerprint
    fraction, brightness = examination.lesion_fraction, examination.brightness
    image = case.image.relative_to(root) if case.image.is_relative_to(root) else case.image
    return {
        "id": case.id,
        "class": case.class_name,
        "group": case.group,
        "width": seen.shape[1] if seen else None,
        "height": seen.shape[0] if seen else None,
        "masks": len(case.masks),
        "lesion_pixels": examination.lesion_pixels,
        "lesion_fraction": None if fraction is None else f"{fraction:.6f}",
        "brightness": None if brightness is None else f"{brightness:.6f}",
        "artefacts": " ".join(examination.artefacts),
        "sha256": seen.sha256 if seen else None,
        "image": image.as_posix(),
    }


def _write_figures(audit: Audit, folder: Path) -> Iterator[Path]:
    from busi_monai.curation import audit_figures as draw

    statistics = audit.as_dict()["statistics"]
    figures = {
        "classes": draw.class_counts_figure(audit.listing.class_counts),
        "lesion_pixels": draw.lesion_pixels_figure(
            _lesion_fractions(audit), **statistics["pixels"]
        ),
        "sizes": draw.sizes_figure(_sizes(audit)),
    }
    for name, figure in figures.items():
        yield _save(figure, folder / f"{name}.png")
    write_png(folder / "samples.png", draw.sample_grid(list(_samples(audit))))
    yield folder / "samples.png"
    groups, conflicts = _shown_groups(audit)
    for number, page in enumerate(draw.contact_sheets(groups, conflicts), start=1):
        write_png(folder / f"duplicates_{number:02d}.png", page)
        yield folder / f"duplicates_{number:02d}.png"


def _shown_groups(audit: Audit) -> tuple[dict[int, list[Sample]], set[int]]:
    """Return the images of each group by its number in ``cases.csv``, and the class conflicts.

    Conflicts come first.
    """
    thumbnails = {e.case.id: s for e in audit.examinations if (s := _thumbnail(e)) is not None}
    groups = {
        number: [thumbnails[case_id] for case_id in group]
        for number, group in enumerate(audit.duplicates.groups, start=1)
    }
    among = audit.class_conflicts
    conflicts = {n for n, group in enumerate(audit.duplicates.groups, start=1) if group in among}
    order = sorted(groups, key=lambda n: (n not in conflicts, n))
    return {number: groups[number] for number in order}, conflicts


def _save(figure: Figure, path: Path) -> Path:
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png")
    return path


def _lesion_fractions(audit: Audit) -> dict[str, list[float]]:
    return {
        name: [
            e.lesion_fraction
            for e in audit.examinations
            if e.case.class_name == name and e.lesion_fraction is not None
        ]
        for name in CLASSES[1:]
    }


def _sizes(audit: Audit) -> dict[str, list[tuple[int, int]]]:
    return {
        name: [
            e.fingerprint.shape
            for e in audit.examinations
            if e.case.class_name == name and e.fingerprint is not None
        ]
        for name in CLASSES
    }


def _samples(audit: Audit) -> Iterator[Sample]:
    """Yield some sound cases of each class, evenly spread over the dataset."""
    from busi_monai.curation.sample_tiles import Sample

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


def _thumbnail(examination: Examination) -> Sample | None:
    from busi_monai.curation.sample_tiles import Sample

    if examination.fingerprint is None:
        return None
    case = examination.case
    return Sample(case.id, case.class_name, examination.fingerprint.thumbnail, examination.lesion)
