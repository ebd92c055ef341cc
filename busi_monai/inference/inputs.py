"""Which images a list of files, folders and patterns means."""

from __future__ import annotations

import contextlib
import gc
import glob
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from busi_monai.datasets import natural_key, visible_files
from busi_monai.errors import ImageReadError, InputError
from busi_monai.files import named
from busi_monai.inference.packed import PackedPaths, PackedTexts
from busi_monai.io.archives import UnpackedArchive, is_archive, left_out_sentence, unpacked
from busi_monai.io.dicom_images import DICOM_SUFFIXES, NOT_IMAGES, is_bare_dicom, silent_pydicom
from busi_monai.io.image_files import (
    DICOMDIR,
    id_key,
    image_of_mask,
    image_stem,
    is_image_file,
    safe_id,
    suffix_of,
    unique_id,
)
from busi_monai.io.images import ImageFile, frames_of, read_image
from busi_monai.io.video import is_video

__all__ = [
    "FoundImages",
    "ImageScan",
    "file_id",
    "find_images",
    "frame_id",
    "images_of",
    "listed_paths",
    "scan_images",
]

logger = logging.getLogger(__name__)

_MASK_FOLDERS = {"masks", "labels"}


@dataclass
class FoundImages:
    """The images that were meant, and what was not found.

    Attributes:
        paths: images in the order of the inputs, each once, within a folder in natural order of
            their stems, as cases are prepared.
        ids: one for each path, see ``find_images``.
        failures: (input, reason) for each input that gives no image.
        skipped_masks: files that are masks of an image beside them.
        skipped_objects: (file, what it is) for each DICOM file that is no image, such as a report.
        left_out: number of other files by suffix (``".txt"``, ``"no suffix"``), and of
            ``"subfolder"`` that were not entered; ``"hidden file"`` is counted of archives alone.
    """

    paths: Sequence[Path] = field(default_factory=list)
    ids: Sequence[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    skipped_masks: list[Path] = field(default_factory=list)
    skipped_objects: list[tuple[Path, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Hash of names, ids, sizes and times of change of the files, and of what is not found."""
        found = hashlib.sha256()
        for path, id in zip(self.paths, self.ids, strict=True):
            told = named(path.absolute())
            try:
                status = path.stat()
                # of an archive, the time is that of unpacking
                changed = status.st_mtime_ns if told == str(path.absolute()) else 0
                stated = f"{status.st_size} {changed}"
            except OSError:
                stated = ""
            found.update(f"{told}\0{id}\0{stated}\0".encode("utf-8", "backslashreplace"))
        for given, reason in self.failures:
            found.update(f"{named(given)}\0{named(reason)}\0".encode("utf-8", "backslashreplace"))
        return found.hexdigest()

    def shard(self, number: int, of: int) -> FoundImages:
        """Return every ``of``-th image from the ``number``-th on, with the ids of the whole.

        What is not found, skipped or left out belongs to the first shard.

        Examples:
            >>> FoundImages([Path("a.png"), Path("b.png"), Path("c.png")], ["a", "b", "c"]).shard(
            ...     1, 2
            ... ).ids
            ['a', 'c']
        """
        if not 1 <= number <= of:
            raise InputError(f"shard {number}/{of}: expected I/N with I from 1 to N")
        own = slice(number - 1, None, of)
        others = self if number == 1 else FoundImages()
        return replace(others, paths=self.paths[own], ids=self.ids[own])


@dataclass
class ImageScan:
    """The readable images as items for a dataset, and what is not readable.

    Attributes:
        items: ``{"id", "image"}`` for each image, ``image`` an absolute path, or an ``ImageFile``
            for a frame of a loop.
        failures: (input, reason) for each that cannot be used.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def raise_failures(self) -> None:
        """Raise an ``ImageReadError`` that lists every failure, at the end of a bundle's run."""
        if self.failures:
            reasons = "; ".join(reason for _, reason in self.failures)
            raise ImageReadError(f"{len(self.failures)} inputs could not be used: {reasons}")


def scan_images(inputs: str | Path | Sequence[str | Path]) -> ImageScan:
    """Find images and read each once, so that a bad one cannot stop a batch later.

    Raises:
        InputError: if not a single image can be used; a MONAI engine would end well without one.
    """
    found = find_images([inputs] if isinstance(inputs, str | Path) else inputs)
    scan = ImageScan(failures=list(found.failures))
    if found.left_out:
        logger.info(left_out_sentence(found.left_out))
    for path, name in zip(found.paths, found.ids, strict=True):
        try:
            frames = frames_of(path.absolute()).images
        except ImageReadError as error:
            scan.failures.append((str(path), str(error)))
            continue
        for loaded in frames:
            try:
                read_image(loaded)
            except ImageReadError as error:
                scan.failures.append((str(loaded), str(error)))
            else:
                image = str(loaded.source) if loaded.frame is None else loaded
                scan.items.append({"id": frame_id(name, loaded), "image": image})
    if not scan.items:
        reasons = "; ".join(reason for _, reason in scan.failures) or "no input was given"
        raise InputError(f"no image to predict: {reasons}")
    return scan


def listed_paths(stream: BinaryIO) -> list[str]:
    r"""Return the paths of a list: UTF-8, one a line; blank lines and those with ``#`` are not.

    Raises:
        InputError: if a line is not UTF-8.

    Examples:
        >>> import io
        >>> listed_paths(io.BytesIO(b"# mine\na (1).png\n\nb/c.dcm\r\n"))
        ['a (1).png', 'b/c.dcm']
    """
    paths = []
    for number, line in enumerate(stream, 1):
        try:
            path = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            name = getattr(stream, "name", "list")
            raise InputError(f"{name}: line {number} is not UTF-8; expected a path") from None
        if path.strip() and not path.startswith("#"):
            paths.append(path)
    return paths


@contextlib.contextmanager
def images_of(inputs: Sequence[str | Path]) -> Iterator[FoundImages]:
    """As ``find_images``, with archives, whose images are there while the block runs.

    An archive that cannot be read is among the failures, and so is each member that is refused.
    """
    with contextlib.ExitStack() as stack:
        opened: dict[Path, str | Path | UnpackedArchive] = {}
        failures = []
        for given in inputs:
            path = Path(given).absolute()
            if not is_archive(given):
                opened[path] = given
            elif path not in opened:
                try:
                    opened[path] = stack.enter_context(unpacked(given))
                except InputError as error:
                    failures.append((str(given), str(error)))
        found = find_images(list(opened.values()))
        found.failures = failures + found.failures
        found.paths, found.ids = PackedPaths(found.paths), PackedTexts(found.ids)
        gc.collect()  # what finding took goes back before the network takes its own
        yield found


def find_images(inputs: Sequence[str | Path | UnpackedArchive]) -> FoundImages:
    """Return the images that files, folders, glob patterns and unpacked archives mean.

    A path that exists is taken as it is, whatever brackets its name holds; a folder gives the
    images directly in it, those its ``DICOMDIR`` names, or if there are none, the DICOM files of
    all its subfolders; anything else with ``*``, ``?`` or ``[`` is a pattern (``**`` enters
    subfolders). An archive gives all images in it. Except for files that are named,
    ``<name>_mask.png`` and what is named like it (see ``image_of_mask``) is skipped where the
    image ``<name>`` lies beside it, and a folder ``masks`` or ``labels`` where images lie in a
    folder ``images`` beside it.

    An image's id is its stem. Where stems collide, its suffix comes behind (``scan-png``), or as
    many of its folders' names before (``p1__scan``) as tell them apart, but none from above the
    folder that was given or that a pattern begins with: these may name patients. What still
    collides is numbered. See ``safe_id`` for long and odd names.
    """
    found = FoundImages()
    # by absolute path: the path as given, and as seen from above the input
    within: dict[Path, tuple[Path, PurePath]] = {}
    for given in inputs:
        path = base = given.folder if isinstance(given, UnpackedArchive) else Path(given)
        images: list[Path] = []
        if isinstance(given, UnpackedArchive):
            images = _add_archive(found, given)
        elif path.is_dir():
            images = _add_folder(found, path)
        elif path.exists():
            images = [path]
        elif re.search(r"[*?\[]", str(given)):
            base = _fixed_part(str(given))
            images = _add_matches(found, str(given))
        else:
            found.failures.append((str(given), f"{given}: no such file or folder"))
        for one in images:
            within.setdefault(one.absolute(), (one, one.relative_to(base.parent)))
    found.paths = [path for path, _ in within.values()]
    found.ids = _image_ids([below for _, below in within.values()])
    found.left_out = dict(sorted(found.left_out.items()))
    return found


def _image_ids(paths: Sequence[PurePath]) -> list[str]:
    """Return one id for each path below its input, as ``find_images`` tells.

    Examples:
        >>> _image_ids([Path("a/1.png"), Path("b/1.png"), Path("b/2.png")])
        ['a__1', 'b__1', '2']
        >>> _image_ids([Path("scan.png"), Path("scan.tif"), Path("a.png"), Path("A.png")])
        ['scan-png', 'scan-tif', 'a', 'A-2']
    """
    same_stem: dict[str, list[PurePath]] = {}
    for path in paths:
        same_stem.setdefault(id_key(image_stem(path)), []).append(path)
    names = {path: name for group in same_stem.values() for path, name in _told_apart(group)}
    ids: list[str] = []
    taken: set[str] = set()
    for path in paths:
        ids.append(unique_id(safe_id(names[path]), taken))
        taken.add(id_key(ids[-1]))
    return ids


def _told_apart(paths: Sequence[PurePath]) -> list[tuple[PurePath, str]]:
    """Return paths of one stem with the shortest names that differ, if any do."""
    depth = max(len(path.parts) for path in paths)
    for folders, with_suffix in product(range(depth), (False, True)):
        named = [(path, _name(path, folders, with_suffix=with_suffix)) for path in paths]
        if len({id_key(name) for _, name in named}) == len(paths):
            return named
    return [(path, _name(path, depth, with_suffix=False)) for path in paths]


def _name(path: PurePath, folders: int, *, with_suffix: bool) -> str:
    stem = image_stem(path)
    before = [part for part in path.parts[:-1] if part != ".."][-folders:] if folders else []
    suffix = path.name[len(stem) :].replace(".", "-").lower() if with_suffix else ""
    return "__".join([*before, stem]) + suffix


def _fixed_part(pattern: str) -> Path:
    """Return the folder above the first wildcard of a pattern."""
    parts = Path(pattern).parts
    wild = next(place for place, part in enumerate(parts) if re.search(r"[*?\[]", part))
    return Path(*parts[:wild])


def frame_id(id: str, loaded: ImageFile) -> str:
    """Return the id of a file's image: the file's own, with the number of a loop's frame."""
    return id if loaded.frame is None else f"{id}_frame_{loaded.frame + 1:03d}"


def file_id(id: str, loaded: ImageFile) -> str:
    """Return the id of a whole file from that of one of its images, as ``frame_id`` made it.

    Examples:
        >>> loaded = ImageFile(Path("cine.dcm"), frame=11)
        >>> frame_id("cine", loaded), file_id("cine_frame_012", loaded)
        ('cine_frame_012', 'cine')
    """
    return id.replace(frame_id("", loaded), "", 1)


def _add_folder(found: FoundImages, folder: Path) -> list[Path]:
    image_files = _without_masks(found, _images_among(found, visible_files(folder)))
    named = _named_by_dicomdir(found, folder)
    image_files += named
    if image_files:
        entered = {folder_above for path in named for folder_above in path.parents}
        _leave_out(found, (path for path in folder.iterdir() if path not in entered), folders=True)
    else:
        below = visible_files(folder, recursive=True)
        image_files = [path for path in below if path.is_file() and _is_dicom(path)]
        if image_files:
            known = set(image_files).union(visible_files(folder))
            _leave_out(found, (path for path in below if path not in known))
    image_files = _take(found, image_files)
    if not image_files:
        hint = _where_else(folder)
        if any(folder in path.parents for path, _ in found.skipped_objects):
            hint = ", only DICOM files of other kinds"
        found.failures.append((str(folder), f"{folder}: the folder holds no images{hint}"))
    return image_files


def _named_by_dicomdir(found: FoundImages, folder: Path) -> list[Path]:
    """Return the files inside a folder that its ``DICOMDIR`` names, in its order.

    Names are compared without regard to case, as media were copied in either. Those that are not
    there are failures. A directory that cannot be read names none; a name that leads out of the
    folder is passed over.
    """
    directory = folder / DICOMDIR
    if not directory.is_file():
        return []
    import pydicom

    try:
        with silent_pydicom():
            records = pydicom.dcmread(directory).get("DirectoryRecordSequence") or []
            ids = [record.get("ReferencedFileID") for record in records]
    except Exception:
        # pydicom raises anything for damaged files; the files themselves are looked for then
        return []
    there = {path.relative_to(folder).as_posix().casefold(): path for path in folder.rglob("*")}
    named = []
    for parts in ids:
        steps = [parts] if isinstance(parts, str) else [str(part) for part in parts or []]
        if not steps or ".." in steps:
            continue
        path = there.get("/".join(steps).casefold())
        if path is None:
            missing = folder.joinpath(*steps)
            message = f"{missing}: named by {directory}, but not there"
            found.failures.append((str(missing), message))
        elif path.is_file() and folder.resolve() in path.resolve().parents:
            named.append(path)
    return named


def _add_archive(found: FoundImages, archive: UnpackedArchive) -> list[Path]:
    files = visible_files(archive.folder, recursive=True)
    image_files = _take(found, _without_masks(found, _images_among(found, files)))
    for directory in sorted(archive.folder.rglob(DICOMDIR)):
        _named_by_dicomdir(found, directory.parent)
    for name, reason in archive.refused:
        found.failures.append((f"{archive.path}/{name}", f"{archive.path}/{name}: {reason}"))
    for kind, count in archive.left_out.items():
        found.left_out[kind] = found.left_out.get(kind, 0) + count
    if not image_files:
        found.failures.append((str(archive.path), f"{archive.path}: holds no image to predict"))
    return image_files


def _where_else(folder: Path) -> str:
    """Return a hint where images are; of a dataset with masks, not these."""
    below = {path.parent.name for path in folder.glob("*/*") if _is_image(path)}
    place = "images" if {"images", "masks"} <= below else "*/*"
    return f"; its subfolders do: give '{folder}/{place}'" if below else ""


def _add_matches(found: FoundImages, pattern: str) -> list[Path]:
    matches = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    image_files = _take(found, _without_masks(found, _images_among(found, matches)))
    if not image_files:
        hint = _bracket_hint(pattern)
        found.failures.append((pattern, f"{pattern}: no image matches this pattern{hint}"))
    return image_files


def _bracket_hint(pattern: str) -> str:
    """Return how brackets that belong to names are written, where the names are there."""
    literal = pattern.replace("[", "[[]")
    if "[" not in pattern or not glob.glob(literal, recursive=True):  # noqa: PTH207
        return ""
    return f"; [ begins a set of characters; for names with brackets give '{literal}'"


def _images_among(found: FoundImages, paths: Iterable[Path]) -> list[Path]:
    """Return the images, and count the other files."""
    kinds = {path: _is_image(path) for path in paths}
    _leave_out(found, (path for path, is_image in kinds.items() if not is_image))
    return [path for path, is_image in kinds.items() if is_image]


def _leave_out(found: FoundImages, paths: Iterable[Path], *, folders: bool = False) -> None:
    """Count files by kind, or subfolders; hidden ones and a DICOMDIR are not counted."""
    for path in paths:
        if path.name.startswith(".") or path.name == DICOMDIR or path.is_dir() != folders:
            continue
        kind = "subfolder" if folders else suffix_of(path) or "no suffix"
        found.left_out[kind] = found.left_out.get(kind, 0) + 1


def _is_image(path: Path) -> bool:
    named = is_image_file(path) or is_video(path) or is_bare_dicom(path)
    return named and path.is_file() and not path.name.startswith(".")


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in DICOM_SUFFIXES or is_bare_dicom(path)


def _take(found: FoundImages, paths: Iterable[Path]) -> list[Path]:
    """Return the paths that are images, and tell the DICOM files of other kinds apart."""
    kinds = {path: _why_no_image(path) for path in paths}
    found.skipped_objects += [(path, kind) for path, kind in kinds.items() if kind is not None]
    return [path for path, kind in kinds.items() if kind is None]


def _why_no_image(path: Path) -> str | None:
    """Return what a DICOM file holds instead of an image, ``None`` for one that may be read.

    Files that cannot be read are no matter of this function: reading them tells the reason.
    """
    if not _is_dicom(path):
        return None
    import pydicom

    try:
        with silent_pydicom():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality", "Rows"]
            )
    except Exception:
        # whatever pydicom raises: the file is read later, and its failure told
        return None
    kind = NOT_IMAGES.get(str(header.get("Modality")))
    return kind or ("no image" if "SOPClassUID" in header and "Rows" not in header else None)


def _without_masks(found: FoundImages, paths: Iterable[Path]) -> list[Path]:
    # by stem, as the cases of a prepared dataset; by suffix where these are the same
    ordered = sorted(
        paths, key=lambda path: (natural_key(path.with_name(image_stem(path))), path.suffix)
    )
    stems: dict[Path, set[str]] = {}
    for path in ordered:
        stems.setdefault(path.parent, set()).add(id_key(image_stem(path)))
    beside = {path.parent.parent for path in ordered if path.parent.name.lower() == "images"}
    kept = []
    for path in ordered:
        there = stems[path.parent]
        masked = image_of_mask(image_stem(path), there)
        in_masks = path.parent.name.lower() in _MASK_FOLDERS and path.parent.parent in beside
        if in_masks or (masked and id_key(masked[0]) in there):
            found.skipped_masks.append(path)
        else:
            kept.append(path)
    return kept
