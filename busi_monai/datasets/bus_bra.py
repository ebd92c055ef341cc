"""The layout of BUS-BRA: ``Images/bus_0001-l.png``, ``Masks/mask_0001-l.png``, ``bus_data.csv``.

``5-fold-cv.csv`` has the authors' five folds.

Gómez-Flores W. et al., "BUS-BRA: a breast ultrasound dataset for assessing computer-aided
diagnosis systems", Medical Physics 51 (2024) 3110.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from busi_monai.cases import Case, DatasetIssue
from busi_monai.datasets.folder import pair_masks
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    child_folder,
    in_case_order,
    known_class,
    problem,
)
from busi_monai.datasets.tables import read_table, report_missing_images
from busi_monai.io.image_files import without_image_suffix

__all__ = ["BUS_BRA", "FOLDS_TABLE", "TABLE", "read_bus_bra"]

TABLE = "bus_data.csv"
FOLDS_TABLE = "5-fold-cv.csv"
_META = {
    "Case": "patient",
    "Histology": "histology",
    "BIRADS": "birads",
    "Device": "device",
    "Side": "side",
}


def read_bus_bra(root: Path) -> Listing:
    """List a folder of the BUS-BRA layout; the column ``Case`` is the patient, hence the group.

    The table's ``Width`` and ``Height`` are not used: a few rows are off.

    Raises:
        InputError: if the table lacks ``ID``, ``Case`` or ``Pathology``, or that of the folds
            ``ID`` or ``kFold``.
    """
    problems: list[DatasetIssue] = []
    images, masks = pair_masks(root, problems, prefixes=("bus_", "mask_"))
    table = root / TABLE
    rows = {
        without_image_suffix(row["ID"]): row
        for row in read_table(table, ("ID", "Case", "Pathology"))
    }
    folds = _folds(root / FOLDS_TABLE)
    cases = []
    for case_id, path in images.items():
        row = rows.get(case_id)
        class_name = known_class(row["Pathology"]) if row else None
        if row is None or class_name is None:
            found = f"Pathology {row['Pathology']!r}" if row else "no row"
            message = f"{TABLE} gives it {found}; expected benign or malignant"
            problems.append(problem(root, "unknown_class", path, message, case_id))
            continue
        mask = (masks[case_id],) if case_id in masks else ()
        group = f"bus_bra:{row['Case']}" if row["Case"] else None
        meta = _meta(row) | folds.get(case_id, {})
        case = Case(case_id, path, mask, class_name, "bus_bra", group, meta=meta)
        cases.append(case)
        if case.lacks_mask:
            message = f"no mask mask_{case_id.removeprefix('bus_')}.png in Masks"
            problems.append(problem(root, "missing_mask", path, message, case_id))
    report_missing_images(root, table, rows, images, problems)
    return Listing("bus_bra", root, in_case_order(cases), problems)


def _meta(row: dict[str, str]) -> dict[str, Any]:
    meta: dict[str, Any] = {key: row[column] for column, key in _META.items() if row.get(column)}
    if meta.get("birads", "").isdecimal():
        meta["birads"] = int(meta["birads"])
    return meta


def _folds(table: Path) -> dict[str, dict[str, int]]:
    """Return ``official_fold`` by id."""
    rows = read_table(table, ("ID", "kFold")) if table.is_file() else []
    return {
        without_image_suffix(row["ID"]): {"official_fold": int(row["kFold"])}
        for row in rows
        if row["kFold"].isdecimal()
    }


def _matches(root: Path) -> bool:
    return (root / TABLE).is_file() and child_folder(root, "images") is not None


BUS_BRA = Reader(
    name="bus_bra",
    title="BUS-BRA",
    looks_like=f"folders Images and Masks with {TABLE}",
    classes=("benign", "malignant"),
    matches=_matches,
    read=read_bus_bra,
    folds_table=FOLDS_TABLE,
)
