"""A folder of images whose lesions stand in annotation files."""

from __future__ import annotations

from pathlib import Path

from busi_monai.cases import CLASSES, Case, Problem
from busi_monai.datasets.annotations import Annotated, Annotation
from busi_monai.datasets.listing import (
    Listing,
    case_ids,
    case_stem,
    child_folder,
    class_in_name,
    in_case_order,
    index_images,
    known_class,
    own_part,
    problem,
    visible_files,
)
from busi_monai.datasets.tables import ImageNames, find_labels, read_labels

__all__ = ["read_annotated"]

_NO_STRAYS = frozenset({"classes.txt", "data.yaml", "data.yml", "dataset.yaml", "dataset.yml"})


def read_annotated(root: Path, annotated: Annotated, problems: list[Problem]) -> Listing:
    """List the images of a folder with the outlines that annotation files give them.

    A class is what ``labels.csv`` says, else a category that is a class, else what the file's name
    begins with. An image with outlines of two classes, or with other ones than its row in
    ``labels.csv``, is left out and reported. An image without annotation is unlabelled: it is left
    out and reported too, unless ``labels.csv`` gives it a class.

    Args:
        root: the dataset's folder.
        annotated: from ``read_annotations``.
        problems: what was found so far; gets what is found here.
    """
    folder = child_folder(root, "images") or root
    read = {*annotated.files, find_labels(root)}
    files = [
        path
        for path in visible_files(root, recursive=True)
        if path not in read and path.name.lower() not in _NO_STRAYS
    ]
    within = [path for path in files if path.is_relative_to(folder)]
    for path in files:
        if not path.is_relative_to(folder):
            message = f"outside {folder.name}, and no annotation file"
            problems.append(problem(root, "stray_file", path, message))
    images = index_images(root, within, problems, folder)
    ids = case_ids(root, images, problems)
    by_id = {ids[key]: path for key, path in images.items()}
    table = read_labels(root, ImageNames(by_id, folder), by_id, problems)
    cases = []
    for key, path in images.items():
        case_id = ids[key]
        annotations = annotated.images.get(path, [])
        stated = table.classes.get(case_id)
        found = _class_of(path, stated, annotations)
        if not isinstance(found, str):
            kind, message = found
            problems.append(problem(root, kind, path, message, case_id))
            continue
        part = own_part(key.partition("/")[0]) if "/" in key else None
        outlines = tuple(annotation.outline for annotation in annotations)
        meta = {} if part is None else {"official_part": part}
        cases.append(Case(case_id, path, outlines, found, "folder", meta=meta))
        if cases[-1].lacks_mask:
            message = "no annotation; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", path, message, case_id))
    return Listing("folder", root, in_case_order(cases), problems)


def _class_of(
    path: Path, stated: str | None, annotations: list[Annotation]
) -> str | tuple[str, str]:
    """Return an image's class, or the kind of problem and its message."""
    categories = list(dict.fromkeys(annotation.category for annotation in annotations))
    classes = {name for category in categories if (name := known_class(category))}
    told = " and ".join(name for name in CLASSES if name in classes)
    if len(classes) > 1:
        return "unknown_class", f"outlines of {told} in one image; it can have one class"
    if stated and classes and stated not in classes:
        return "unknown_class", f"outlined as {told}, but {stated} in labels.csv; mend one of them"
    if stated or classes:
        return stated or told
    if not annotations:
        return "unlabelled", (
            f"no annotation, which need not mean {CLASSES[0]}; list it in labels.csv with its class"
        )
    named = class_in_name(case_stem(path))
    if named is not None:
        return named
    return "unknown_class", (
        f"outlined as {', '.join(map(repr, categories))}, which is no class; name the categories "
        f"{', '.join(CLASSES)}, or list the image in labels.csv"
    )
