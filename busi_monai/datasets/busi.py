"""The layout of BUSI: one folder per class, masks beside the images as ``<id>_mask[_n].png``.

Al-Dhabyani W. et al., "Dataset of breast ultrasound images", Data in Brief 28 (2020) 104863.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from busi_monai.cases import CLASSES, Case, Problem
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    case_stem,
    child_folder,
    in_case_order,
    index_images,
    natural_key,
    problem,
    visible_files,
)
from busi_monai.images import is_image_file

__all__ = ["BUSI", "read_busi"]

_MASK_STEM = re.compile(r"^(?P<id>.+)_mask(?:_[0-9]+)?$", re.IGNORECASE)


def read_busi(root: Path) -> Listing:
    """List a folder of the BUSI layout.

    Images of one id in several class folders are all kept, each with its class before its id
    (``benign-001``), and reported as ``duplicate_id``.

    Args:
        root: a folder that holds at least one of the folders ``normal``, ``benign``, ``malignant``.
    """
    problems: list[Problem] = []
    found: list[Case] = []
    for class_name in CLASSES:
        folder = child_folder(root, class_name)
        if folder is not None:
            found += _read_class(root, folder, class_name, problems)
    _report_strays(root, problems)
    cases = _with_unique_ids(root, found, problems)
    for case in cases:
        if case.lacks_mask:
            message = f"no {case.id}_mask.png beside it; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", case.image, message, case.id))
    return Listing("busi", root, in_case_order(cases), problems)


def _read_class(root: Path, folder: Path, class_name: str, problems: list[Problem]) -> list[Case]:
    pictures: list[Path] = []
    masks: dict[str, list[Path]] = {}
    for path in visible_files(folder):
        match = _MASK_STEM.match(case_stem(path))
        if match and is_image_file(path):
            masks.setdefault(match["id"], []).append(path)
        else:
            pictures.append(path)
    images = index_images(root, pictures, problems)
    for folder_inside in _folders_in(folder):
        for path in visible_files(folder_inside, recursive=True):
            message = f"in a folder inside {folder.name}; expected pictures directly in it"
            problems.append(problem(root, "stray_file", path, message))
    for case_id in sorted(masks.keys() - images.keys(), key=natural_key):
        for path in masks[case_id]:
            message = f"a mask, but there is no picture {case_id!r} beside it"
            problems.append(problem(root, "mask_without_image", path, message, case_id))
    return [
        Case(case_id, path, tuple(masks.get(case_id, ())), class_name, "busi")
        for case_id, path in images.items()
    ]


def _report_strays(root: Path, problems: list[Problem]) -> None:
    for path in visible_files(root):
        message = f"outside the class folders {', '.join(CLASSES)}"
        problems.append(problem(root, "stray_file", path, message))
    for folder in _folders_in(root):
        if folder.name.lower() in CLASSES or folder.name.startswith("."):
            continue
        if any(visible_files(folder, recursive=True)):
            message = f"expected folders named {', '.join(CLASSES)}; its files were left out"
            problems.append(problem(root, "unknown_class", folder, message))


def _folders_in(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=natural_key)


def _with_unique_ids(root: Path, cases: list[Case], problems: list[Problem]) -> list[Case]:
    counts = Counter(case.id for case in cases)
    taken = {case_id for case_id, count in counts.items() if count == 1}
    unique: list[Case] = []
    for case in cases:
        if counts[case.id] == 1:
            unique.append(case)
            continue
        renamed = f"{case.class_name}-{case.id}"
        while renamed in taken:
            renamed += "-"
        taken.add(renamed)
        message = f"the id {case.id!r} stands in several class folders; it was read as {renamed!r}"
        problems.append(problem(root, "duplicate_id", case.image, message, renamed))
        unique.append(Case(renamed, case.image, case.masks, case.class_name, case.dataset))
    return unique


def _matches(root: Path) -> bool:
    return any(child_folder(root, name) for name in CLASSES)


BUSI = Reader(
    name="busi",
    title="BUSI (Dataset_BUSI_with_GT)",
    looks_like="folders normal, benign, malignant with <id>.png and <id>_mask.png",
    classes=CLASSES,
    matches=_matches,
    read=read_busi,
)
