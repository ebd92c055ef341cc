"""The layout of BUS-UCLM: ``images/ALWI_000.png``, ``masks/ALWI_000.png``, ``INFO.csv``.

Vallez N. et al., "BUS-UCLM: breast ultrasound lesion segmentation dataset", Scientific Data 12
(2025) 242. Masks are in colour: green for benign, red for malignant, black elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from busi_monai.cases import CLASSES, Case, DatasetIssue
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

__all__ = ["BUS_UCLM", "TABLE", "read_bus_uclm"]

TABLE = "INFO.csv"
_META = ("Doppler", "Marks", "Combined")


def read_bus_uclm(root: Path) -> Listing:
    """List a folder of the BUS-UCLM layout; what stands before ``_`` in a name is the patient.

    Raises:
        InputError: if the table, separated by semicolons, lacks ``Image`` or ``Label``.
    """
    problems: list[DatasetIssue] = []
    images, masks = pair_masks(root, problems)
    table = root / TABLE
    rows = {
        without_image_suffix(row["Image"]): row
        for row in read_table(table, ("Image", "Label"), delimiter=";")
    }
    cases = []
    for case_id, path in images.items():
        row = rows.get(case_id)
        class_name = known_class(row["Label"]) if row else None
        if row is None or class_name is None:
            found = f"Label {row['Label']!r}" if row else "no row"
            message = f"{TABLE} gives it {found}; expected {', '.join(CLASSES)}"
            problems.append(problem(root, "unknown_class", path, message, case_id))
            continue
        patient = case_id.split("_")[0]
        mask = (masks[case_id],) if case_id in masks else ()
        meta = {"patient": patient} | {key.lower(): row[key] for key in _META if row.get(key)}
        case = Case(case_id, path, mask, class_name, "bus_uclm", f"bus_uclm:{patient}", meta=meta)
        cases.append(case)
        if case.lacks_mask:
            message = f"no mask masks/{path.name}; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", path, message, case_id))
    report_missing_images(root, table, rows, images, problems)
    return Listing("bus_uclm", root, in_case_order(cases), problems)


def _matches(root: Path) -> bool:
    return (root / TABLE).is_file() and child_folder(root, "images") is not None


BUS_UCLM = Reader(
    name="bus_uclm",
    title="BUS-UCLM",
    looks_like=f"folders images and masks with {TABLE}",
    classes=CLASSES,
    matches=_matches,
    read=read_bus_uclm,
)
