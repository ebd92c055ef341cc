"""The plain layout: ``images/x.png``, ``masks/x.png``, and ``labels.csv`` (``image,label``)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from busi_monai.cases import CLASSES, Case, Problem
from busi_monai.datasets.listing import (
    Listing,
    Reader,
    case_stem,
    child_folder,
    in_case_order,
    index_images,
    known_class,
    problem,
    visible_files,
)
from busi_monai.errors import InputError

__all__ = ["FOLDER", "pair_masks", "read_folder", "read_table", "report_missing_images"]

PROVENANCE_COLUMNS = ("annotator", "submitted", "model")
"""Columns of ``labels.csv`` that ``label-import`` writes; they are kept in ``Case.meta``."""


def read_folder(root: Path) -> Listing:
    """List a plain folder of ``images`` and ``masks``.

    The class comes from ``labels.csv`` (columns ``image`` and ``label``, the image with or without
    suffix); a picture that it does not name, or all where there is no table, takes the class that
    its name begins with (``benign_001.png``). A picture without a class is left out and reported.
    The columns ``annotator``, ``submitted`` and ``model`` are kept in the cases' ``meta``.

    Raises:
        InputError: if no picture has a class, or ``labels.csv`` lacks a column.
    """
    problems: list[Problem] = []
    images, masks = pair_masks(root, problems)
    labels, provenance = _read_labels(root, problems)
    cases = []
    for case_id, path in images.items():
        class_name = labels.get(case_id) or _class_in_name(case_id)
        if class_name is None:
            message = f"no class: list it in labels.csv as image,label ({', '.join(CLASSES)})"
            problems.append(problem(root, "unknown_class", path, message, case_id))
            continue
        mask = (masks[case_id],) if case_id in masks else ()
        meta = provenance.get(case_id, {})
        cases.append(Case(case_id, path, mask, class_name, "folder", meta=meta))
        if cases[-1].lacks_mask:
            message = f"no mask masks/{path.name}; a lesion needs its outline"
            problems.append(problem(root, "missing_mask", path, message, case_id))
    if images and not cases:
        raise InputError(
            f"{root}: no picture has a class; add labels.csv with the columns image,label "
            f"(labels {', '.join(CLASSES)})"
        )
    report_missing_images(root, root / "labels.csv", labels, images, problems)
    return Listing("folder", root, in_case_order(cases), problems)


def pair_masks(
    root: Path, problems: list[Problem], prefixes: tuple[str, str] = ("", "")
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the pictures of ``images`` and of ``masks`` by id.

    Args:
        root: the dataset's folder.
        problems: gets the stray files and the masks without image.
        prefixes: what a picture's and a mask's file name have before the part that they share
            (BUS-BRA: ``bus_`` and ``mask_``). The id is the picture's name without suffix.
    """
    indexed = []
    for name in ("images", "masks"):
        folder = child_folder(root, name)
        files = visible_files(folder, recursive=True) if folder else iter(())
        indexed.append(index_images(root, files, problems))
    images, found = indexed
    masks: dict[str, Path] = {}
    for stem, path in found.items():
        case_id = prefixes[0] + stem.removeprefix(prefixes[1])
        if case_id in images:
            masks[case_id] = path
        else:
            message = f"a mask, but there is no picture {case_id!r} in images"
            problems.append(problem(root, "mask_without_image", path, message, case_id))
    return images, masks


def read_table(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a table of text with its cells stripped, a byte-order mark ignored.

    Raises:
        InputError: if a column is missing or the text is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter, skipinitialspace=True)
            names = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            rows = [
                {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table in UTF-8 ({error}); save it again") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"{path}: expected the columns {', '.join(columns)} separated by {delimiter!r}, "
            f"found {', '.join(names) or 'none'}; missing {', '.join(missing)}"
        )
    return rows


def report_missing_images(
    root: Path,
    table: Path,
    listed: Mapping[str, object],
    images: Mapping[str, Path],
    problems: list[Problem],
) -> None:
    """Add a ``missing_image`` problem for each id of a table that has no picture."""
    for case_id in listed:
        if case_id not in images:
            message = f"{table.name} lists {case_id!r}, but there is no such picture"
            problems.append(problem(root, "missing_image", table, message, case_id))


def _read_labels(
    root: Path, problems: list[Problem]
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return classes and what is told of their origin, by id."""
    table = root / "labels.csv"
    labels: dict[str, str] = {}
    provenance: dict[str, dict[str, str]] = {}
    rows = read_table(table, ("image", "label")) if table.is_file() else []
    for row in rows:
        case_id = case_stem(row["image"])
        class_name = known_class(row["label"])
        if class_name is None:
            message = f"label {row['label']!r}; expected {', '.join(CLASSES)}"
            problems.append(problem(root, "unknown_class", table, message, case_id))
        elif labels.setdefault(case_id, class_name) != class_name:
            raise InputError(f"{table}: {case_id!r} is both {labels[case_id]} and {class_name}")
        provenance[case_id] = {name: row[name] for name in PROVENANCE_COLUMNS if row.get(name)}
    return labels, provenance


def _class_in_name(case_id: str) -> str | None:
    return next((name for name in CLASSES if case_id.lower().startswith(name)), None)


def _matches(root: Path) -> bool:
    return child_folder(root, "images") is not None and (
        child_folder(root, "masks") is not None or (root / "labels.csv").is_file()
    )


FOLDER = Reader(
    name="folder",
    title="Plain folder",
    looks_like="folders images and masks, with labels.csv (image,label)",
    classes=CLASSES,
    matches=_matches,
    read=read_folder,
)
