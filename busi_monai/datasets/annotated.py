"""A folder of images whose lesions stand in annotation files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from busi_monai.cases import CLASSES, NORMAL, Case, DatasetIssue
from busi_monai.datasets.annotations import Annotated, Annotation
from busi_monai.datasets.listing import (
    Listing,
    case_ids,
    child_folder,
    class_in_name,
    in_case_order,
    index_images,
    known_class,
    part_meta,
    problem,
    visible_files,
)
from busi_monai.datasets.tables import ImageNames, find_labels, read_labels
from busi_monai.io.image_files import image_stem, is_image_file

__all__ = ["read_annotated"]


def read_annotated(root: Path, annotated: Annotated, problems: list[DatasetIssue]) -> Listing:
    """List the images of a folder with the outlines that annotation files give them.

    A class is what ``labels.csv`` says, else a category that is a class, else what the file's name
    begins with. Beside outlines of a class, those of other categories are left out. An image is
    left out and reported where it has outlines of two classes, other ones than its row in
    ``labels.csv``, an outline although it is normal, or an entry that cannot be used, so that its
    mask would be incomplete. An image without annotation is unlabelled: it is left out and
    reported too, unless ``labels.csv`` gives it a class.

    Args:
        root: the dataset's folder.
        annotated: from ``read_annotations``.
        problems: what was found so far; gets what is found here.
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
        meta = part_meta(path, folder)
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
            f"no annotation, which need not mean {NORMAL}; list it in labels.csv with its class"
        )
    found = stated or told or named
    if not found:
        message = (
            f"outlined as {', '.join(map(repr, categories))}, which is no class; name the "
            f"categories {', '.join(CLASSES)}, or list the image in labels.csv"
        )
        return "unknown_class", f"{message}; {hint}" if hint else message
    drawn = next((one.outline for one in annotations if not one.outline.is_empty), None)
    if found == NORMAL and drawn is not None:
        source = "labels.csv" if stated else "its category" if told else "its name"
        return "unknown_class", (
            f"{found} in {source}, but outlined in {drawn.file.name}, {drawn.entry}; mend one of "
            "them"
        )
    return found
