"""The plain layout: ``images/x.png``, ``masks/x.png``, and ``labels.csv`` (``image,label``)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from busi_monai.cases import CLASSES, Case, DatasetIssue
from busi_monai.datasets.annotated import read_annotated
from busi_monai.datasets.annotations import has_annotations, read_annotations
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    case_ids,
    child_folder,
    class_in_name,
    folders_in,
    in_case_order,
    index_images,
    is_hidden,
    natural_key,
    part_meta,
    problem,
    shown,
    visible_files,
)
from busi_monai.datasets.tables import ImageNames, LabelTable, find_labels, read_labels
from busi_monai.errors import InputError
from busi_monai.io.image_files import id_key, image_of_mask, image_stem

__all__ = ["FOLDER", "pair_masks", "read_folder"]

_RECORDS = ("run.json", "provenance.json")  # of label-import
PROVENANCE_COLUMNS = ("annotator", "submitted", "model")
"""Columns of ``labels.csv`` that ``label-import`` writes; they are kept in ``Case.meta``."""


def read_folder(root: Path) -> Listing:
    """List a plain folder of ``images`` and ``masks``.

    The class comes from ``labels.csv`` (see ``read_labels``); an image that it does not name, or
    all where there is no table, takes the class that its name begins with (``benign_001.png``). A
    image without a class is left out and reported. The columns ``annotator``, ``submitted`` and
    ``model`` are kept in the cases' ``meta``. Where there is no folder ``masks``, annotation files
    give the outlines, see ``read_annotations`` and ``read_annotated``.

    Raises:
        InputError: if no image has a class, or ``labels.csv`` cannot be used.
    """
    problems: list[DatasetIssue] = []
    if child_folder(root, "masks") is None:
        annotated = read_annotations(root, problems)
        if annotated is not None:
            return read_annotated(root, annotated, problems)
    images, masks = pair_masks(root, problems)
    _report_strays(root, problems)
    folder = child_folder(root, "images") or root
    names = ImageNames(images, folder)
    table = read_labels(root, names, images, problems, PROVENANCE_COLUMNS)
    cases = []
    for case_id, path in images.items():
        class_name = table.classes.get(case_id)
        if class_name is None and case_id in table.refused:
            continue
        class_name = class_name or class_in_name(image_stem(path))
        if class_name is None:
            message = f"no class: list it in labels.csv as image,label ({', '.join(CLASSES)})"
            problems.append(problem(root, "unknown_class", path, message, case_id))
            continue
        mask = (masks[case_id],) if case_id in masks else ()
        meta = {**table.provenance.get(case_id, {}), **part_meta(path, folder)}
        cases.append(Case(case_id, path, mask, class_name, "folder", meta=meta))
        if cases[-1].lacks_mask:
            message = (
                f"no mask masks/{path.relative_to(folder).as_posix()}; a lesion needs its outline"
            )
            problems.append(problem(root, "missing_mask", path, message, case_id))
    if images and not cases:
        raise InputError(_no_class(root, table, problems))
    return Listing("folder", root, in_case_order(cases), problems)


def _report_strays(root: Path, problems: list[DatasetIssue]) -> None:
    """Report what lies beside ``images``, ``masks`` and ``labels.csv``; a record of ours may."""
    read = {find_labels(root), *(root / name for name in _RECORDS)}
    for path in sorted(root.iterdir(), key=natural_key):
        if is_hidden(path.name) or path in read or path.name.lower() in {"images", "masks"}:
            continue
        message = "outside the folders images and masks; left out"
        if path.is_dir():
            count = sum(1 for _ in visible_files(path, recursive=True))
            message += f" with its {count} files"
        problems.append(problem(root, "stray_file", path, message))


def _no_class(root: Path, table: LabelTable, problems: list[DatasetIssue]) -> str:
    if table.path is None:
        return (
            f"{root}: no image has a class; add labels.csv with the columns image,label "
            f"(labels {', '.join(CLASSES)})"
        )
    rows = [p.message for p in problems if p.file == table.path.relative_to(root).as_posix()]
    told = "; ".join(rows[:3]) + (f"; and {len(rows) - 3} more" if len(rows) > 3 else "")
    return f"{table.path} gives no image a class: {told or 'it has no rows'}"


def pair_masks(
    root: Path, problems: list[DatasetIssue], prefixes: tuple[str, str] = ("", "")
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the images of ``images`` and of ``masks`` by id.

    A mask belongs to the image of its name in the subfolder of its name. Where one of both
    folders has no subfolders at all and there is one image and one mask of a name, these belong
    together. No other mask is taken.

    Args:
        root: the dataset's folder.
        problems: gets the stray files and the masks without image.
        prefixes: what an image's and a mask's file name have before the part that they share
            (BUS-BRA: ``bus_`` and ``mask_``). The ids are those of ``case_ids``.
    """
    indexed = []
    for name in ("images", "masks"):
        folder = child_folder(root, name)
        files = visible_files(folder, recursive=True) if folder else iter(())
        indexed.append(index_images(root, files, problems, folder))
        for other in folders_in(root):
            if folder and other != folder and other.name.lower() == name:
                message = f"beside the folder {folder.name}, which was read; move its files there"
                problems.append(problem(root, "stray_file", other, message))
    images, found = _without_masks(root, indexed[0], problems), indexed[1]
    ids = case_ids(root, images, problems)
    wanted = {_renamed(key, prefixes): path for key, path in found.items()}
    masks = {ids[key]: path for key, path in wanted.items() if key in images}
    one_is_flat = any(not any("/" in key for key in keys) for keys in (images, wanted))
    by_name: dict[str, list[str]] = {}
    for key in images:
        by_name.setdefault(_name(key), []).append(key)
    mask_names = Counter(map(_name, wanted))
    for key, path in wanted.items():
        if key in images:
            continue
        name = _name(key)
        alike = by_name.get(name, [])
        if one_is_flat and len(alike) == mask_names[name] == 1:
            masks[ids[alike[0]]] = path
            continue
        message = f"a mask, but there is no image {key!r} in images"
        if alike:
            places = shown(images[image].relative_to(root).as_posix() for image in alike)
            message += f", only {places}; put a mask into the same subfolder as its image"
        problems.append(problem(root, "mask_without_image", path, message, name))
    return {ids[key]: path for key, path in images.items()}, masks


def _without_masks(
    root: Path, images: dict[str, Path], problems: list[DatasetIssue]
) -> dict[str, Path]:
    """Return the images without files named as the mask of one beside them."""
    beside: dict[str, set[str]] = {}
    for key in images:
        folder, _, name = key.rpartition("/")
        beside.setdefault(folder, set()).add(id_key(name))
    kept = {}
    for key, path in images.items():
        folder, _, name = key.rpartition("/")
        mask_of = image_of_mask(name, beside[folder])
        if mask_of and id_key(mask_of[0]) in beside[folder]:
            message = f"looks like a mask of {mask_of[0]}; move it to masks, under that name"
            problems.append(problem(root, "stray_file", path, message))
        else:
            kept[key] = path
    return kept


def _renamed(key: str, prefixes: tuple[str, str]) -> str:
    """Return a mask's path as that of its image."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{prefixes[0]}{name.removeprefix(prefixes[1])}"


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _matches(root: Path) -> bool:
    plain = child_folder(root, "masks") is not None or find_labels(root) is not None
    return (plain and child_folder(root, "images") is not None) or has_annotations(root)


FOLDER = Reader(
    name="folder",
    title="Plain folder",
    looks_like=(
        "folders images and masks, with labels.csv (image,label), or images with annotations of "
        "COCO, LabelMe or YOLO"
    ),
    classes=CLASSES,
    matches=_matches,
    read=read_folder,
)
