"""The layout of BUSI: one folder per class, masks beside the images as ``<id>_mask[_n].png``.

Al-Dhabyani W. et al., "Dataset of breast ultrasound images", Data in Brief 28 (2020) 104863.
"""

from __future__ import annotations

import re
from pathlib import Path

from busi_monai.cases import CLASSES, Case, Problem
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    case_ids,
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

    Images of one name in several class folders are all kept, each with its class before its name
    (``benign-001``).

    Args:
        root: a folder that holds at least one of the folders ``normal``, ``benign``, ``malignant``.
    """
    problems: list[Problem] = []
    folders = {name: folder for name in CLASSES if (folder := child_folder(root, name))}
    found: dict[str, tuple[Path, tuple[Path, ...]]] = {}
    for class_name, folder in folders.items():
        for stem, files in _read_class(root, folder, problems).items():
            found[f"{class_name}/{stem}"] = files
    _report_strays(root, list(folders.values()), problems)
    ids = case_ids(root, found, problems)
    cases = [
        Case(ids[key], image, masks, key.partition("/")[0], "busi")
        for key, (image, masks) in found.items()
    ]
    for case in cases:
        if case.lacks_mask:
            message = f"no {case_stem(case.image)}_mask.png beside it; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", case.image, message, case.id))
    return Listing("busi", root, in_case_order(cases), problems)


def _read_class(
    root: Path, folder: Path, problems: list[Problem]
) -> dict[str, tuple[Path, tuple[Path, ...]]]:
    """Return the images of a class with their masks, by file name."""
    pictures: list[Path] = []
    masks: dict[str, list[Path]] = {}
    for path in visible_files(folder):
        match = _MASK_STEM.match(case_stem(path))
        if match and is_image_file(path):
            masks.setdefault(match["id"], []).append(path)
        else:
            pictures.append(path)
    images = index_images(root, pictures, problems, folder)
    for folder_inside in _folders_in(folder):
        for path in visible_files(folder_inside, recursive=True):
            message = f"in a folder inside {folder.name}; expected pictures directly in it"
            problems.append(problem(root, "stray_file", path, message))
    for case_id in sorted(masks.keys() - images.keys(), key=natural_key):
        for path in masks[case_id]:
            message = f"a mask, but there is no picture {case_id!r} beside it"
            problems.append(problem(root, "mask_without_image", path, message, case_id))
    return {stem: (path, tuple(masks.get(stem, ()))) for stem, path in images.items()}


def _report_strays(root: Path, read: list[Path], problems: list[Problem]) -> None:
    for path in visible_files(root):
        message = f"outside the class folders {', '.join(CLASSES)}"
        problems.append(problem(root, "stray_file", path, message))
    for folder in _folders_in(root):
        if folder in read or folder.name.startswith("."):
            continue
        if any(visible_files(folder, recursive=True)):
            message = f"expected one folder each of {', '.join(CLASSES)}; its files were left out"
            problems.append(problem(root, "unknown_class", folder, message))


def _folders_in(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=natural_key)


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
