"""Which pictures a list of files, folders and patterns means."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from busi_monai.datasets import natural_key
from busi_monai.errors import ImageReadError, InputError
from busi_monai.images import PictureFile, frames_of, is_image_file, read_picture
from busi_monai.inference.dicom_folders import (
    DICOMDIR,
    dicom_files_below,
    files_of_dicomdir,
    is_bare_dicom,
    why_no_picture,
)

__all__ = [
    "FoundPictures",
    "PictureScan",
    "file_id",
    "find_pictures",
    "frame_id",
    "image_stem",
    "picture_ids",
    "scan_pictures",
]

_MASK = re.compile(r"^(?P<stem>.+)_mask(_\d+)?$", re.IGNORECASE)


@dataclass
class FoundPictures:
    """The pictures that were meant, and what was not found.

    Attributes:
        paths: pictures in the order of the inputs, each once, within a folder in natural order of
            their stems, as cases are prepared.
        failures: (input, reason) for each input that gives no picture.
        skipped_masks: files left out of folders and patterns as they are masks of a picture there.
        skipped_objects: (file, what it is) for each DICOM file of a folder that is no picture, such
            as a report.
    """

    paths: list[Path] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    skipped_masks: list[Path] = field(default_factory=list)
    skipped_objects: list[tuple[Path, str]] = field(default_factory=list)


@dataclass
class PictureScan:
    """The readable pictures as items for a dataset, and what is not readable.

    Attributes:
        items: ``{"id", "image"}`` for each picture, ``image`` an absolute path, or a
            ``PictureFile`` for a frame of a loop.
        failures: (input, reason) for each that cannot be used.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def raise_failures(self) -> None:
        """Raise an ``ImageReadError`` if any input failed, for the end of a bundle's run.

        Raises:
            ImageReadError: listing every failed input with its reason.
        """
        if self.failures:
            reasons = "; ".join(reason for _, reason in self.failures)
            raise ImageReadError(f"{len(self.failures)} inputs could not be used: {reasons}")


def scan_pictures(inputs: str | Path | Sequence[str | Path]) -> PictureScan:
    """Find pictures and read each once, so that a bad one cannot stop a batch later.

    Args:
        inputs: a file, folder or pattern, or several; see ``find_pictures``.

    Raises:
        InputError: if not a single picture can be used; a MONAI engine would end well without one.
    """
    found = find_pictures([inputs] if isinstance(inputs, str | Path) else inputs)
    scan = PictureScan(failures=list(found.failures))
    for path, name in zip(found.paths, picture_ids(found.paths), strict=True):
        try:
            frames = frames_of(path.absolute()).pictures
        except ImageReadError as error:
            scan.failures.append((str(path), str(error)))
            continue
        for picture in frames:
            try:
                read_picture(picture)
            except ImageReadError as error:
                scan.failures.append((str(picture), str(error)))
            else:
                image = str(picture.source) if picture.frame is None else picture
                scan.items.append({"id": frame_id(name, picture), "image": image})
    if not scan.items:
        reasons = "; ".join(reason for _, reason in scan.failures) or "no input was given"
        raise InputError(f"no picture to predict: {reasons}")
    return scan


def find_pictures(inputs: Sequence[str | Path]) -> FoundPictures:
    """Return the pictures that files, folders and glob patterns mean.

    A path that exists is taken as it is, whatever brackets its name holds; a folder gives the
    pictures directly in it, those its ``DICOMDIR`` names, or if there are none, the DICOM files of
    all its subfolders; anything else with ``*``, ``?`` or ``[`` is a pattern (``**`` enters
    subfolders). In folders and patterns ``<name>_mask.png`` is skipped where the picture ``<name>``
    lies beside it; a mask named explicitly is taken as a picture.
    """
    found = FoundPictures()
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            _add_folder(found, path)
        elif path.exists():
            found.paths.append(path)
        elif re.search(r"[*?\[]", str(given)):
            _add_matches(found, str(given))
        else:
            found.failures.append((str(given), f"{given}: no such file or folder"))
    found.paths = list({path.absolute(): path for path in found.paths}.values())
    return found


def picture_ids(paths: Sequence[Path]) -> list[str]:
    """Return one id for each path: its stem, with its folders' names before it where stems collide.

    Examples:
        >>> picture_ids([Path("a/1.png"), Path("b/1.png"), Path("b/2.png")])
        ['a__1', 'b__1', '2']
        >>> picture_ids([Path("x/s/1.dcm"), Path("y/s/1.dcm")])
        ['x__s__1', 'y__s__1']
    """
    ids = [image_stem(path) for path in paths]
    above = [[folder.name for folder in path.absolute().parents if folder.name] for path in paths]
    while True:
        uses = Counter(id.casefold() for id in ids)
        colliding = [n for n, id in enumerate(ids) if uses[id.casefold()] > 1 and above[n]]
        if not colliding:
            return ids
        for number in colliding:
            ids[number] = f"{above[number].pop(0)}__{ids[number]}"


def frame_id(id: str, picture: PictureFile) -> str:
    """Return the id of a file's picture: the file's own, with the frame's number in a loop.

    Examples:
        >>> frame_id("cine", PictureFile(Path("cine.dcm"), frame=11))
        'cine_frame_012'
    """
    return id if picture.frame is None else f"{id}_frame_{picture.frame + 1:03d}"


def file_id(id: str, picture: PictureFile) -> str:
    """Return the id of a whole file from that of one of its pictures, as ``frame_id`` made it.

    Examples:
        >>> file_id("cine_frame_012", PictureFile(Path("cine.dcm"), frame=11))
        'cine'
    """
    return id.replace(frame_id("", picture), "", 1)


def image_stem(path: str | Path) -> str:
    """Return a picture's file name without its suffix.

    ``.nii.gz`` is one suffix, and the numbers of a DICOM UID are none.

    Examples:
        >>> image_stem("benign (1).png"), image_stem("1.2.840.7"), image_stem("a.nii.gz")
        ('benign (1)', '1.2.840.7', 'a')
    """
    name = Path(path).name
    if name.lower().endswith(".nii.gz"):
        return name[: -len(".nii.gz")]
    return name if Path(name).suffix[1:].isdecimal() else Path(name).stem


def _add_folder(found: FoundPictures, folder: Path) -> None:
    pictures = _without_masks(found, [path for path in folder.iterdir() if _is_picture(path)])
    named, missing = files_of_dicomdir(folder)
    found.failures += [
        (str(path), f"{path}: named by {folder / DICOMDIR}, but not there") for path in missing
    ]
    pictures += named
    pictures = pictures or dicom_files_below(folder)
    pictures = _without_other_objects(found, pictures)
    found.paths += pictures
    if not pictures:
        hint = _where_else(folder)
        if any(folder in path.parents for path, _ in found.skipped_objects):
            hint = ", only DICOM files of other kinds"
        found.failures.append((str(folder), f"{folder}: the folder holds no pictures{hint}"))


def _where_else(folder: Path) -> str:
    """Return a hint where pictures are; of a dataset with masks, not these."""
    below = {path.parent.name for path in folder.glob("*/*") if _is_picture(path)}
    if not below:
        return ""
    place = "images" if {"images", "masks"} <= below else "*/*"
    return f"; its subfolders do: give '{folder}/{place}'"


def _add_matches(found: FoundPictures, pattern: str) -> None:
    matches = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    pictures = _without_masks(found, [path for path in matches if _is_picture(path)])
    pictures = _without_other_objects(found, pictures)
    found.paths += pictures
    if not pictures:
        found.failures.append((pattern, f"{pattern}: no picture matches this pattern"))


def _is_picture(path: Path) -> bool:
    named = is_image_file(path) or is_bare_dicom(path)
    return named and path.is_file() and not path.name.startswith(".")


def _without_other_objects(found: FoundPictures, paths: Iterable[Path]) -> list[Path]:
    kept = []
    for path in paths:
        other = why_no_picture(path)
        if other is None:
            kept.append(path)
        else:
            found.skipped_objects.append((path, other))
    return kept


def _without_masks(found: FoundPictures, paths: Iterable[Path]) -> list[Path]:
    # by stem, as the cases of a prepared dataset; by suffix where these are the same
    ordered = sorted(
        paths, key=lambda path: (natural_key(path.with_name(image_stem(path))), path.suffix)
    )
    stems = {(path.parent, image_stem(path)) for path in ordered}
    kept = []
    for path in ordered:
        match = _MASK.match(image_stem(path))
        if match and (path.parent, match["stem"]) in stems:
            found.skipped_masks.append(path)
        else:
            kept.append(path)
    return kept
