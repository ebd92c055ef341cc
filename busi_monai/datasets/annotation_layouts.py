"""Where annotation files lie, told from names and the first bytes of each JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from busi_monai.datasets.listing import child_folder, own_part
from busi_monai.datasets.tables import find_labels
from busi_monai.io.image_files import image_stem, is_hidden, is_image_file

__all__ = ["has_annotations", "is_coco_name", "yolo_folders"]

_COCO_NAMES = ("coco", "annotation", "instances")
_HEAD = 65536  # bytes; categories, licenses and what else comes first fit in it
_COCO = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
_LABELME = re.compile(rb'"shapes"\s*:\s*\[')


def has_annotations(root: Path) -> bool:
    """Whether a folder holds annotations; of its files only the heads of JSONs are read.

    COCO's files lie in it, in ``annotations``, in ``images``, or in folders of a split in either;
    LabelMe's there, in folders within ``images``, or beside the images of at least two subfolders,
    of patients say. YOLO's layouts are those of ``yolo_folders``.
    """
    if yolo_folders(root):
        return True
    files = [path for folder in _places(root) for path in _files_in(folder)]
    tables = [path for path in files if path.suffix.lower() == ".json"]
    if not tables:
        return len(_patients(root)) > 1
    images = {path.with_name(image_stem(path)) for path in files if is_image_file(path)}
    if any(path.with_suffix("") in images for path in tables):
        return True
    if images and any(map(is_coco_name, tables)):
        return True
    told = any(_head_holds(path, _COCO) or _head_holds(path, _LABELME) for path in tables)
    return (told and any(map(is_image_file, _files_below(root)))) or len(_patients(root)) > 1


def is_coco_name(path: Path) -> bool:
    """Whether a JSON is called as COCO's files are."""
    return any(word in path.name.lower() for word in _COCO_NAMES)


def yolo_folders(root: Path) -> list[tuple[Path, Path]]:
    """Return each ``images`` beside a ``labels`` that holds text files.

    They lie in the folder itself, or in folders ``train``, ``valid`` and ``test``, as Roboflow has
    it.
    """
    found = []
    for place in [root, *_part_folders(root)]:
        images, labels = child_folder(place, "images"), child_folder(place, "labels")
        if images is None or labels is None:
            continue
        if any(path.suffix.lower() == ".txt" for path in _files_below(labels)):
            found.append((images, labels))
    return found


def _places(root: Path) -> list[Path]:
    """Return the folders that annotations are looked for in, to tell a layout."""
    images, annotations = child_folder(root, "images"), child_folder(root, "annotations")
    parts = _part_folders(root)
    inner = [child_folder(part, "images") for part in parts]
    below = [] if images is None else [images, *_folders_below(images)]
    return [path for path in (root, annotations, *parts, *inner, *below) if path is not None]


def _part_folders(root: Path) -> list[Path]:
    return [path for path in _folders_in(root) if own_part(path.name)]


def _patients(root: Path) -> list[Path]:
    """Return the subfolders that hold LabelMe's files, and are no datasets of their own."""
    return [path for path in _folders_in(root) if _is_labelme(path) and find_labels(path) is None]


def _is_labelme(folder: Path) -> bool:
    files = list(_files_in(folder))
    images = {path.with_name(image_stem(path)) for path in files if is_image_file(path)}
    beside = (p for p in files if p.suffix.lower() == ".json" and p.with_suffix("") in images)
    first = next(beside, None)
    return first is not None and _head_holds(first, _LABELME)


def _head_holds(path: Path, pattern: re.Pattern[bytes]) -> bool:
    try:
        with path.open("rb") as stream:
            return pattern.search(stream.read(_HEAD)) is not None
    except OSError:
        return False


def _files_in(folder: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in _entries_of(folder) if entry.is_file())


def _folders_in(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries_of(folder) if entry.is_dir())


def _entries_of(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError:  # no folder, or one that may not be looked into
        return []


def _folders_below(folder: Path) -> Iterator[Path]:
    for name, inside, _ in os.walk(folder):
        inside[:] = [child for child in inside if not is_hidden(child)]
        yield from (Path(name, child) for child in inside)


def _files_below(folder: Path) -> Iterator[Path]:
    for place in (folder, *_folders_below(folder)):
        yield from _files_in(place)
