"""The layout of BUSI: one folder per class, masks beside the images as ``<id>_mask[_n].png``.

Al-Dhabyani W. et al., "Dataset of breast ultrasound images", Data in Brief 28 (2020) 104863.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from busi_monai.cases import CLASSES, Case, DatasetIssue
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    case_ids,
    child_folder,
    folders_in,
    in_case_order,
    index_images,
    natural_key,
    own_split,
    problem,
    visible_files,
)
from busi_monai.io.image_files import composed, id_key, image_of_mask, image_stem, is_image_file

__all__ = ["BUSI", "read_busi"]


def read_busi(root: Path) -> Listing:
    """List a folder of the BUSI layout.

    Images of one name in several class folders are all kept, each with its class before its name
    (``benign-001``). The class folders may lie in folders ``train``, ``val`` and ``test``, which
    the cases tell as ``official_split`` in ``meta``.
    """
    problems: list[DatasetIssue] = []
    found: dict[str, Case] = {}
    places = _places(root)
    for place in places:
        folders = _class_folders(place)
        before, meta = ("", {}) if place == root else (f"{place.name}/", _part_of(place))
        for class_name, folder in folders.items():
            for stem, (image, masks) in _read_class(root, folder, problems).items():
                case = Case(stem, image, masks, class_name, "busi", meta=meta)
                found[f"{before}{class_name}/{stem}"] = case
        _report_strays(root, place, list(folders.values()), problems)
    if root not in places:
        _report_strays(root, root, places, problems)
    ids = case_ids(root, found, problems)
    cases = [replace(case, id=ids[key]) for key, case in found.items()]
    for case in cases:
        if case.lacks_mask:
            message = f"no {image_stem(case.image)}_mask.png beside it; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", case.image, message, case.id))
    return Listing("busi", root, in_case_order(cases), problems)


def _read_class(
    root: Path, folder: Path, problems: list[DatasetIssue]
) -> dict[str, tuple[Path, tuple[Path, ...]]]:
    """Return the images of a class with their masks, by file name."""
    files = list(visible_files(folder))
    beside = {id_key(image_stem(path)) for path in files}
    image_paths: list[Path] = []
    masks: dict[str, list[Path]] = {}
    for path in files:
        mask_of = image_of_mask(image_stem(path), beside) if is_image_file(path) else None
        if mask_of is None:
            image_paths.append(path)
        elif mask_of[1]:
            masks.setdefault(composed(mask_of[0]), []).append(path)
        else:
            suffix = path.name[len(image_stem(path)) :]
            message = f"looks like a mask of {mask_of[0]}; rename it to {mask_of[0]}_mask_1{suffix}"
            problems.append(problem(root, "stray_file", path, message))
    images = index_images(root, image_paths, problems, folder)
    for folder_inside in folders_in(folder):
        for path in visible_files(folder_inside, recursive=True):
            message = f"in a folder inside {folder.name}; expected images directly in it"
            problems.append(problem(root, "stray_file", path, message))
    for case_id in sorted(masks.keys() - images.keys(), key=natural_key):
        for path in masks[case_id]:
            message = f"a mask, but there is no image {case_id!r} beside it"
            problems.append(problem(root, "mask_without_image", path, message, case_id))
    return {stem: (path, tuple(masks.get(stem, ()))) for stem, path in images.items()}


def _report_strays(root: Path, place: Path, read: list[Path], problems: list[DatasetIssue]) -> None:
    for path in visible_files(place):
        message = f"outside the class folders {', '.join(CLASSES)}"
        problems.append(problem(root, "stray_file", path, message))
    for folder in folders_in(place):
        if folder not in read and any(visible_files(folder, recursive=True)):
            message = f"expected one folder each of {', '.join(CLASSES)}; its files were left out"
            problems.append(problem(root, "unknown_class", folder, message))


def _part_of(place: Path) -> dict[str, str | None]:
    return {"official_split": own_split(place.name)}


def _class_folders(place: Path) -> dict[str, Path]:
    return {name: folder for name in CLASSES if (folder := child_folder(place, name))}


def _places(root: Path) -> list[Path]:
    """Return the folders that hold class folders: the root, or those of a split in it."""
    if _class_folders(root) or not root.is_dir():
        return [root]
    return [
        folder
        for folder in folders_in(root)
        if own_split(folder.name) is not None and _class_folders(folder)
    ]


def _matches(root: Path) -> bool:
    return any(_class_folders(place) for place in _places(root))


BUSI = Reader(
    name="busi",
    looks_like="folders normal, benign, malignant with <id>.png and <id>_mask.png",
    matches=_matches,
    read=read_busi,
)
