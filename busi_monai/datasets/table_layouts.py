"""The layouts whose classes stand in a table: BUS-BRA, BUS-UCLM and BrEaST-Lesions-USG."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from busi_monai.cases import CLASSES, Case, DatasetIssue
from busi_monai.datasets.folder import pair_masks
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    case_ids,
    child_folder,
    in_case_order,
    index_images,
    known_class,
    problem,
    visible_files,
)
from busi_monai.datasets.tables import read_table
from busi_monai.errors import InputError
from busi_monai.io.image_files import composed, image_stem, without_image_suffix

__all__ = [
    "BREAST_LESIONS_USG",
    "BUS_BRA",
    "BUS_BRA_FOLDS",
    "BUS_BRA_TABLE",
    "BUS_UCLM",
    "BUS_UCLM_TABLE",
]

BUS_BRA_TABLE = "bus_data.csv"
BUS_BRA_FOLDS = "5-fold-cv.csv"
BUS_UCLM_TABLE = "INFO.csv"

_MASK_STEM = re.compile(r"^(?P<id>.+)_(?P<kind>tumou?r|other)[0-9]*$", re.IGNORECASE)
_SHEET_COLUMNS = ("CaseID", "Image_filename", "Classification")
_NO_META = {"CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename"}

Row = Mapping[str, Any]


class _TableReading:
    """A dataset's images beside the rows of its table, while the cases are made."""

    def __init__(
        self, dataset: str, root: Path, table: Path, column: str, problems: list[DatasetIssue]
    ) -> None:
        """Start with the table's file and the column of the classes."""
        self.dataset, self.root, self.table, self.column = dataset, root, table, column
        self.problems = problems
        self.cases: list[Case] = []

    def classed(
        self, images: Mapping[str, Path], rows: Mapping[str, Row], classes: str = ", ".join(CLASSES)
    ) -> Iterator[tuple[str, Path, Row, str]]:
        """Yield id, path, row and class of each image, and report those without a class."""
        for case_id, path in images.items():
            row = rows.get(case_id)
            class_name = known_class(row[self.column]) if row else None
            if row is not None and class_name is not None:
                yield case_id, path, row, class_name
                continue
            found = f"{self.column} {row[self.column]!r}" if row else "no row"
            message = f"{self.table.name} gives it {found}; expected {classes}"
            self.problems.append(problem(self.root, "unknown_class", path, message, case_id))

    def add(self, case: Case, lacking: str) -> None:
        """Add a case, and report ``lacking`` where its mask is."""
        self.cases.append(case)
        if case.lacks_mask:
            self.problems.append(problem(self.root, "missing_mask", case.image, lacking, case.id))

    def listing(self, images: Mapping[str, Path], rows: Mapping[str, Row]) -> Listing:
        """Report the rows without image, and return the listing."""
        for case_id in rows:
            if case_id not in images:
                message = f"{self.table.name} lists {case_id!r}, but there is no image of that id"
                found = problem(self.root, "missing_image", self.table, message, case_id)
                self.problems.append(found)
        return Listing(self.dataset, self.root, in_case_order(self.cases), self.problems)


def _read_bus_bra(root: Path) -> Listing:
    """List BUS-BRA: ``Images/bus_0001-l.png``, ``Masks/mask_0001-l.png``, ``bus_data.csv``.

    The column ``Case`` is the patient, hence the group. ``Width`` and ``Height`` are not used: a
    few rows are off. ``5-fold-cv.csv`` has the authors' five folds.

    Gómez-Flores W. et al., "BUS-BRA: a breast ultrasound dataset for assessing computer-aided
    diagnosis systems", Medical Physics 51 (2024) 3110.
    """
    reading = _TableReading("bus_bra", root, root / BUS_BRA_TABLE, "Pathology", [])
    images, masks = pair_masks(root, reading.problems, prefixes=("bus_", "mask_"))
    rows = _by_image(read_table(reading.table, ("ID", "Case", "Pathology")), "ID")
    with_folds = (root / BUS_BRA_FOLDS).is_file()
    folds = _by_image(read_table(root / BUS_BRA_FOLDS, ("ID", "kFold")) if with_folds else [], "ID")
    for case_id, path, row, class_name in reading.classed(images, rows, "benign or malignant"):
        columns = ("Histology", "BIRADS", "Device", "Side")
        stated = {"patient": row["Case"]} | {key.lower(): row.get(key) for key in columns}
        meta: dict[str, Any] = {key: value for key, value in stated.items() if value}
        if meta.get("birads", "").isdecimal():
            meta["birads"] = int(meta["birads"])
        fold = folds.get(case_id, {}).get("kFold", "")
        if fold.isdecimal():
            meta["official_fold"] = int(fold)
        mask = (masks[case_id],) if case_id in masks else ()
        group = f"bus_bra:{row['Case']}" if row["Case"] else None
        case = Case(case_id, path, mask, class_name, "bus_bra", group, meta=meta)
        reading.add(case, f"no mask mask_{case_id.removeprefix('bus_')}.png in Masks")
    return reading.listing(images, rows)


def _read_bus_uclm(root: Path) -> Listing:
    """List BUS-UCLM: ``images/ALWI_000.png``, ``masks/ALWI_000.png``, ``INFO.csv``.

    What stands before ``_`` in a name is the patient. Masks are in colour: green for benign, red
    for malignant, black elsewhere.

    Vallez N. et al., "BUS-UCLM: breast ultrasound lesion segmentation dataset", Scientific Data 12
    (2025) 242.
    """
    reading = _TableReading("bus_uclm", root, root / BUS_UCLM_TABLE, "Label", [])
    images, masks = pair_masks(root, reading.problems)
    rows = _by_image(read_table(reading.table, ("Image", "Label"), delimiter=";"), "Image")
    for case_id, path, row, class_name in reading.classed(images, rows):
        patient = case_id.split("_")[0]
        columns = ("Doppler", "Marks", "Combined")
        meta = {"patient": patient} | {key.lower(): row[key] for key in columns if row.get(key)}
        mask = (masks[case_id],) if case_id in masks else ()
        case = Case(case_id, path, mask, class_name, "bus_uclm", f"bus_uclm:{patient}", meta=meta)
        reading.add(case, f"no mask masks/{path.name}; a lesion needs its outline")
    return reading.listing(images, rows)


def _read_breast_lesions_usg(root: Path) -> Listing:
    """List BrEaST-Lesions-USG: ``case001.png``, ``case001_tumor.png``, one ``.xlsx`` table.

    The images may lie in a folder beside the table. Only the tumor mask is the lesion; the other
    masks are known and left out. ``Pixel_size`` stands in ``meta`` as found: the table states no
    unit, so it is not taken for the spacing.

    Pawłowska A. et al., "Curated benchmark dataset for ultrasound based breast lesion analysis",
    Scientific Data 11 (2024) 148; The Cancer Imaging Archive, doi 10.7937/9WKK-Q141.
    """
    table = _sheets(root)[0]
    reading = _TableReading("breast_lesions_usg", root, table, "Classification", [])
    problems = reading.problems
    masks: dict[Path, list[Path]] = {}
    image_paths = []
    for path in visible_files(root, recursive=True):
        match = _MASK_STEM.match(image_stem(path))
        if path.suffix == table.suffix:
            continue
        if match is None:
            image_paths.append(path)
        elif match["kind"].lower() != "other":
            masks.setdefault(path.with_name(match["id"]), []).append(path)
    keys = index_images(root, image_paths, problems)
    ids = case_ids(root, keys, problems)
    images = {ids[key]: path for key, path in keys.items()}
    places = _mask_places(images.values(), masks)
    rows = _by_image(_read_sheet(table), "Image_filename")
    for case_id, path, row, class_name in reading.classed(images, rows):
        case = Case(
            id=case_id,
            image=path,
            masks=tuple(masks.get(places.get(path, path), ())),
            class_name=class_name,
            dataset="breast_lesions_usg",
            group=f"breast_lesions_usg:{row['CaseID']}",
            meta=_sheet_meta(row),
        )
        reading.add(case, f"no {image_stem(path)}_tumor.png beside it; a lesion needs its outline")
    for place in sorted(masks.keys() - places.values()):
        for path in masks[place]:
            message = (
                f"a mask, but there is no image {place.name!r} beside it, and not one elsewhere"
            )
            problems.append(problem(root, "mask_without_image", path, message, place.name))
    return reading.listing(images, rows)


def _by_image(rows: Iterable[Row], column: str) -> dict[str, Row]:
    """Return the rows by the image's name without suffix."""
    return {
        without_image_suffix(composed(str(row[column]))): row
        for row in rows
        if row[column] is not None
    }


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


def _read_sheet(table: Path) -> list[dict[str, Any]]:
    """Return the rows of the first sheet that name an image."""
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        workbook = openpyxl.load_workbook(table, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, OSError, ValueError) as error:
        raise InputError(f"{table}: not a readable .xlsx table ({error}); copy it again") from error
    try:
        values = workbook.worksheets[0].iter_rows(values_only=True)
        names = [str(name or "").strip() for name in next(values, ())]
        missing = [name for name in _SHEET_COLUMNS if name not in names]
        if missing:
            raise InputError(
                f"{table}: expected the columns {', '.join(_SHEET_COLUMNS)}, missing "
                f"{', '.join(missing)}"
            )
        rows = [dict(zip(names, row, strict=False)) for row in values]
    finally:
        workbook.close()
    return [row for row in rows if row["Image_filename"]]


def _sheet_meta(row: Row) -> dict[str, Any]:
    """Return the cells that say something about the case, keys in lower case."""
    meta: dict[str, Any] = {"patient": str(row["CaseID"])}
    for name, value in row.items():
        if name and name not in _NO_META and value not in {None, ""}:
            plain = value if isinstance(value, bool | int | float | str) else str(value)
            meta[re.sub(r"\W+", "_", name.lower())] = plain
    return meta


def _sheets(root: Path) -> list[Path]:
    found = visible_files(root) if root.is_dir() else iter(())
    return [
        path for path in found if path.suffix.lower() == ".xlsx" and not path.name.startswith("~$")
    ]


def _has_sheet_and_masks(root: Path) -> bool:
    return bool(_sheets(root)) and any(
        _MASK_STEM.match(image_stem(path)) for path in visible_files(root, recursive=True)
    )


def _has_images_and(root: Path, table: str) -> bool:
    return (root / table).is_file() and child_folder(root, "images") is not None


BUS_BRA = Reader(
    name="bus_bra",
    looks_like=f"folders Images and Masks with {BUS_BRA_TABLE}",
    matches=lambda root: _has_images_and(root, BUS_BRA_TABLE),
    read=_read_bus_bra,
    folds_table=BUS_BRA_FOLDS,
)
BUS_UCLM = Reader(
    name="bus_uclm",
    looks_like=f"folders images and masks with {BUS_UCLM_TABLE}",
    matches=lambda root: _has_images_and(root, BUS_UCLM_TABLE),
    read=_read_bus_uclm,
)
BREAST_LESIONS_USG = Reader(
    name="breast_lesions_usg",
    looks_like="an .xlsx table with case001.png and case001_tumor.png",
    matches=_has_sheet_and_masks,
    read=_read_breast_lesions_usg,
)
