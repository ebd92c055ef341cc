"""The layout of BrEaST-Lesions-USG: ``case001.png``, ``case001_tumor.png``, one ``.xlsx`` table.

Pawłowska A. et al., "Curated benchmark dataset for ultrasound based breast lesion analysis",
Scientific Data 11 (2024) 148; The Cancer Imaging Archive, doi 10.7937/9WKK-Q141.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from busi_monai.cases import CLASSES, Case, DatasetIssue
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    case_ids,
    in_case_order,
    index_images,
    known_class,
    problem,
    visible_files,
)
from busi_monai.datasets.tables import report_missing_images
from busi_monai.errors import InputError
from busi_monai.io.image_files import composed, image_stem, without_image_suffix

__all__ = ["BREAST_LESIONS_USG", "read_breast_lesions_usg"]

_MASK_STEM = re.compile(r"^(?P<id>.+)_(?P<kind>tumou?r|other)[0-9]*$", re.IGNORECASE)
_FILE_COLUMNS = {"CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename"}
_COLUMNS = ("CaseID", "Image_filename", "Classification")


def read_breast_lesions_usg(root: Path) -> Listing:
    """List a folder of the BrEaST-Lesions-USG layout.

    The images may lie in a folder beside the table. Only the tumor mask is the lesion; the other
    masks are known and left out. ``Pixel_size`` stands in ``meta`` as found: the table states no
    unit, so it is not taken for the spacing.

    Raises:
        InputError: if there is no readable table, or it lacks a column.
    """
    problems: list[DatasetIssue] = []
    table = _tables(root)[0]
    files = [path for path in visible_files(root, recursive=True) if path.suffix != table.suffix]
    masks: dict[Path, list[Path]] = {}
    image_paths = []
    for path in files:
        match = _MASK_STEM.match(image_stem(path))
        if match is None:
            image_paths.append(path)
        elif match["kind"].lower() != "other":
            masks.setdefault(path.with_name(match["id"]), []).append(path)
    keys = index_images(root, image_paths, problems)
    ids = case_ids(root, keys, problems)
    images = {ids[key]: path for key, path in keys.items()}
    places = _mask_places(images.values(), masks)
    rows = _read_rows(table)
    cases = []
    for case_id, path in images.items():
        row = rows.get(case_id)
        class_name = known_class(row["Classification"]) if row else None
        if row is None or class_name is None:
            found = f"Classification {row['Classification']!r}" if row else "no row"
            message = f"{table.name} gives it {found}; expected {', '.join(CLASSES)}"
            problems.append(problem(root, "unknown_class", path, message, case_id))
            continue
        case = Case(
            id=case_id,
            image=path,
            masks=tuple(masks.get(places.get(path, path), ())),
            class_name=class_name,
            dataset="breast_lesions_usg",
            group=f"breast_lesions_usg:{row['CaseID']}",
            meta=_meta(row),
        )
        cases.append(case)
        if case.lacks_mask:
            message = f"no {image_stem(path)}_tumor.png beside it; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", path, message, case_id))
    for place in masks.keys() - places.values():
        for path in masks[place]:
            message = (
                f"a mask, but there is no image {place.name!r} beside it, and not one elsewhere"
            )
            problems.append(problem(root, "mask_without_image", path, message, place.name))
    report_missing_images(root, table, rows, images, problems)
    return Listing("breast_lesions_usg", root, in_case_order(cases), problems)


def _mask_places(images: Iterable[Path], masks: Collection[Path]) -> dict[Path, Path]:
    """Return under which of ``masks`` each image's stand.

    That is beside it, or elsewhere if one image alone and the masks of one folder have the name.
    """
    beside = {path: path.with_name(image_stem(path)) for path in images}
    image_paths, places = (Counter(place.name for place in x) for x in (beside.values(), masks))
    only = {place.name: place for place in masks if places[place.name] == 1}
    return {
        path: place if place in masks else only[place.name]
        for path, place in beside.items()
        if place in masks or (place.name in only and image_paths[place.name] == 1)
    }


def _read_rows(table: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of the first sheet by the image's stem."""
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        workbook = openpyxl.load_workbook(table, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, OSError, ValueError) as error:
        raise InputError(f"{table}: not a readable .xlsx table ({error}); copy it again") from error
    try:
        values = workbook.worksheets[0].iter_rows(values_only=True)
        names = [str(name or "").strip() for name in next(values, ())]
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise InputError(
                f"{table}: expected the columns {', '.join(_COLUMNS)}, missing {', '.join(missing)}"
            )
        rows = [dict(zip(names, row, strict=False)) for row in values]
    finally:
        workbook.close()
    return {
        without_image_suffix(composed(str(row["Image_filename"]))): row
        for row in rows
        if row["Image_filename"]
    }


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    """Return the cells that say something about the case, keys in lower case."""
    meta: dict[str, Any] = {"patient": str(row["CaseID"])}
    for name, value in row.items():
        if name and name not in _FILE_COLUMNS and value not in {None, ""}:
            plain = value if isinstance(value, bool | int | float | str) else str(value)
            meta[re.sub(r"\W+", "_", name.lower())] = plain
    return meta


def _tables(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = (path for path in visible_files(root) if path.suffix.lower() == ".xlsx")
    return [path for path in found if not path.name.startswith("~$")]


def _matches(root: Path) -> bool:
    return bool(_tables(root)) and any(
        _MASK_STEM.match(image_stem(path)) for path in visible_files(root, recursive=True)
    )


BREAST_LESIONS_USG = Reader(
    name="breast_lesions_usg",
    title="BrEaST-Lesions-USG",
    looks_like="an .xlsx table with case001.png and case001_tumor.png",
    classes=CLASSES,
    matches=_matches,
    read=read_breast_lesions_usg,
)
