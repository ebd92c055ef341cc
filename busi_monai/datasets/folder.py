"""The plain layout: ``images``, and masks with ``labels.csv`` or annotation files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from busi_monai.cases import CLASSES, Case, DatasetIssue
from busi_monai.datasets.annotation_places import has_annotations
from busi_monai.datasets.annotations import Annotated, Annotation, read_annotations
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
    known_class,
    natural_key,
    problem,
    shown,
    split_meta,
    visible_files,
)
from busi_monai.datasets.tables import ImageNames, LabelTable, find_labels, read_labels
from busi_monai.errors import InputError
from busi_monai.io.image_files import id_key, image_of_mask, image_stem, is_image_file

__all__ = [
    "FOLDER",
    "PROVENANCE_COLUMNS",
    "pair_masks",
]

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
        meta = {**table.provenance.get(case_id, {}), **split_meta(path, folder)}
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


def read_annotated(root: Path, annotated: Annotated, problems: list[DatasetIssue]) -> Listing:
    """List the images of a folder with the outlines that annotation files give them.

    A class is what ``labels.csv`` says, else a category that is a class, else what the file's name
    begins with. Beside outlines of a class, those of other categories are left out. An image is
    left out and reported where it has outlines of two classes, other ones than its row in
    ``labels.csv``, an outline although it is normal, or an entry that cannot be used, so that its
    mask would be incomplete. An image without annotation is unlabelled: it is left out and
    reported too, unless ``labels.csv`` gives it a class.
    """
    folder = child_folder(root, "images") or root
    read = {*annotated.files, find_labels(root)}
    files = [path for path in visible_files(root, recursive=True) if path not in read]
    within = [path for path in files if path.is_relative_to(folder)]
    for path in files:
        if not path.is_relative_to(folder):
            message = f"outside {folder.name}, and no annotation file"
            problems.append(problem(root, "stray_file", path, message))
    within = _annotated_of_a_name(root, within, annotated.images, problems)
    images = index_images(root, within, problems, folder)
    ids = case_ids(root, images, problems)
    by_id = {ids[key]: path for key, path in images.items()}
    table = read_labels(root, ImageNames(by_id, folder), by_id, problems)
    cases = []
    for case_id, path in by_id.items():
        stated = table.classes.get(case_id)
        annotations = _of_the_lesion(root, case_id, annotated.images.get(path, []), problems)
        if annotations is None:
            continue
        found = _class_of(path, stated, annotations, annotated.hint)
        if not isinstance(found, str):
            kind, message = found
            problems.append(problem(root, kind, path, message, case_id))
            continue
        outlines = tuple(annotation.outline for annotation in annotations)
        meta = split_meta(path, folder)
        cases.append(Case(case_id, path, outlines, found, "folder", meta=meta))
        if cases[-1].lacks_mask:
            message = "no annotation; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", path, message, case_id))
    return Listing("folder", root, in_case_order(cases), problems)


def _annotated_of_a_name(
    root: Path,
    files: Sequence[Path],
    annotated: Mapping[Path, list[Annotation]],
    problems: list[DatasetIssue],
) -> list[Path]:
    """Drop images that differ in suffix alone from one with annotations, and have none."""
    taken = {path.with_name(image_stem(path)): path for path in annotated}
    kept = []
    for path in files:
        other = taken.get(path.with_name(image_stem(path))) if is_image_file(path) else None
        if other is None or path in annotated:
            kept.append(path)
            continue
        stem = image_stem(path)
        message = f"another file of the id {stem!r}; {other.name} was taken, which is annotated"
        problems.append(problem(root, "duplicate_id", path, f"{message}: remove one of them", stem))
    return kept


def _of_the_lesion(
    root: Path, case_id: str, annotations: list[Annotation], problems: list[DatasetIssue]
) -> list[Annotation] | None:
    """Return the annotations that make up the mask, or ``None`` where one cannot be used.

    Where some are of a class, those of other categories do not count; else all do.
    """
    classed = any(known_class(annotation.category) for annotation in annotations)
    kept, usable = [], True
    for one in annotations:
        entry = one.outline.entry
        other = classed and not known_class(one.category)
        if one.fault and not (other and one.category):
            message = f"{entry}: {one.fault}; the image {case_id} is left out"
            usable = False
        elif other:
            message = f"{entry} is of {one.category!r}, which is no class, and was left out"
        else:
            kept.append(one)
            continue
        problems.append(problem(root, "annotation", one.outline.file, message, case_id))
    return kept if usable else None


def _class_of(
    path: Path, stated: str | None, annotations: list[Annotation], hint: str
) -> str | tuple[str, str]:
    """Return an image's class, or the kind of problem and its message."""
    categories = list(dict.fromkeys(annotation.category for annotation in annotations))
    classes = {name for category in categories if (name := known_class(category))}
    told = " and ".join(name for name in CLASSES if name in classes)
    if len(classes) > 1:
        return "unknown_class", f"outlines of {told} in one image; it can have one class"
    if stated and classes and stated not in classes:
        return "unknown_class", f"outlined as {told}, but {stated} in labels.csv; mend one of them"
    named = class_in_name(image_stem(path))
    if not stated and not annotations:
        return "unlabelled", (
            f"no annotation, which need not mean {CLASSES[0]}; list it in labels.csv with its class"
        )
    found = stated or told or named
    if not found:
        message = (
            f"outlined as {', '.join(map(repr, categories))}, which is no class; name the "
            f"categories {', '.join(CLASSES)}, or list the image in labels.csv"
        )
        return "unknown_class", f"{message}; {hint}" if hint else message
    drawn = next((one.outline for one in annotations if not one.outline.is_empty), None)
    if found == CLASSES[0] and drawn is not None:
        source = "labels.csv" if stated else "its category" if told else "its name"
        return "unknown_class", (
            f"{found} in {source}, but outlined in {drawn.file.name}, {drawn.entry}; mend one of "
            "them"
        )
    return found


def _matches(root: Path) -> bool:
    plain = child_folder(root, "masks") is not None or find_labels(root) is not None
    return (plain and child_folder(root, "images") is not None) or has_annotations(root)


FOLDER = Reader(
    name="folder",
    looks_like=(
        "folders images and masks, with labels.csv (image,label), or images with annotations of "
        "COCO, LabelMe or YOLO"
    ),
    matches=_matches,
    read=read_folder,
)
