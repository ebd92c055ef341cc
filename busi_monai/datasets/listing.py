"""What a reader returns, and what every reader needs: natural order, stems, visible files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath

from busi_monai.cases import CLASSES, Case, DatasetIssue, class_index
from busi_monai.errors import InputError
from busi_monai.io.dicom_images import is_bare_dicom
from busi_monai.io.image_files import (
    IMAGE_SUFFIXES,
    composed,
    id_key,
    image_stem,
    is_hidden,
    is_image_file,
    safe_id,
    unique_id,
)

__all__ = [
    "Listing",
    "Reader",
    "case_ids",
    "child_folder",
    "class_in_name",
    "folders_in",
    "in_case_order",
    "index_images",
    "is_hidden",
    "known_class",
    "natural_key",
    "own_split",
    "problem",
    "shown",
    "split_meta",
    "visible_files",
]

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_CLASS = re.compile(rf"(?:{'|'.join(CLASSES)})(?![^\W\d_])", re.IGNORECASE)
_SHOWN = 6  # names that a message gives


@dataclass(frozen=True)
class Listing:
    """The cases of a dataset as its names and tables tell them; no pixel has been looked at.

    Attributes:
        dataset: name of the reader (``"busi"``).
        root: folder that the reader took, which can lie one level below the one asked for.
        cases: sorted by class in the order of ``CLASSES``, then naturally by id.
        problems: what is wrong with names and tables: ``unknown_class``, ``mask_without_image``,
            ``missing_mask``, ``stray_file``, ``duplicate_id``, ``missing_image`` for a row of a
            table without its file, ``renamed_id``, which costs no
            image, and ``refused_member`` of an archive.
        left_out: number of members of an archive that were not looked at, by kind.
    """

    dataset: str
    root: Path
    cases: list[Case]
    problems: list[DatasetIssue]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of cases of each class, in the order of ``CLASSES``."""
        return {name: sum(case.class_name == name for case in self.cases) for name in CLASSES}

    @property
    def mask_count(self) -> int:
        """Number of mask files of all cases."""
        return sum(len(case.masks) for case in self.cases)

    def case(self, case_id: str) -> Case:
        """Return the case of an id."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise InputError(f"{self.root} has no case {case_id!r}")


@dataclass(frozen=True)
class Reader:
    """One public layout.

    Attributes:
        name: key in ``READERS`` and ``Case.dataset``.
        looks_like: what the reader looks for, in words, for error messages and ``info``.
        matches: whether a folder holds this layout, judged by names alone.
        read: list a folder that ``matches``.
        folds_table: file of the folds that the dataset ships, where it does; a case tells its own
            as ``official_fold`` in ``meta``, counted from 1 as the authors do.
    """

    name: str
    looks_like: str
    matches: Callable[[Path], bool]
    read: Callable[[Path], Listing]
    folds_table: str = ""


def natural_key(name: str | PurePath) -> tuple[tuple[str | int, ...], str]:
    """Return the sort key of the natural order, in which all files and ids are listed.

    Runs of the digits 0 to 9 compare as numbers, and come before any other character. Other
    characters compare by their code points, without regard to case. Names that are alike so far
    (``x01`` and ``x1``, ``A`` and ``a``) compare by the code points of the whole, so that different
    names never tie, and the order is the same on every system.

    Args:
        name: of a file, or an id. A path compares as text, with forward slashes.

    Examples:
        >>> sorted(["b (10)", "B (3)", "b (2)", "b"], key=natural_key)
        ['b', 'b (2)', 'B (3)', 'b (10)']
    """
    text = name.as_posix() if isinstance(name, PurePath) else name
    # [0-9], not \d: int() refuses some of Unicode's digits, such as superscripts
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), text


def in_case_order(cases: Iterable[Case]) -> list[Case]:
    """Return the cases by class in the order of ``CLASSES``, then naturally by id."""
    return sorted(cases, key=lambda case: (case.class_label, natural_key(case.id)))


def visible_files(folder: Path, *, recursive: bool = False) -> Iterator[Path]:
    """Yield a folder's files in natural order, without those that systems leave behind.

    Left out are names with a leading dot, ``Thumbs.db``, ``desktop.ini`` and ``__MACOSX``. Links to
    folders are followed. Links that lead nowhere are yielded where they are named like images, and
    subfolders themselves where they are not entered: links to a folder that they lie in, and those
    that may not be read.
    """
    found = _paths_below(folder, frozenset()) if recursive else folder.iterdir()
    for path in sorted(found, key=natural_key):
        if is_hidden(path.name) or (path.is_dir() and not recursive):
            continue
        if path.exists() or is_image_file(path):
            yield path


def _paths_below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield what lies in a folder and its subfolders, of folders only those not entered."""
    above |= {folder.resolve()}
    for path in folder.iterdir():
        if is_hidden(path.name):
            continue
        if path.is_dir() and path.resolve() not in above and os.access(path, os.R_OK | os.X_OK):
            yield from _paths_below(path, above)
        else:
            yield path


def folders_in(folder: Path) -> list[Path]:
    """Return the visible subfolders in natural order, none of one that may not be looked into."""
    try:
        inside = sorted(folder.iterdir(), key=natural_key)
    except PermissionError:
        return []
    return [path for path in inside if path.is_dir() and not is_hidden(path.name)]


def child_folder(root: Path, name: str) -> Path | None:
    """Return the subfolder of a name, whatever its letter case, or ``None``."""
    inside = folders_in(root) if root.is_dir() else []
    return next((path for path in inside if path.name.lower() == name.lower()), None)


def problem(root: Path, kind: str, path: Path, message: str, case_id: str = "") -> DatasetIssue:
    """Return a problem with its file written relative to the dataset's root."""
    return DatasetIssue(case_id, path.relative_to(root).as_posix(), kind, message)


def own_split(folder: str) -> str | None:
    """Return the split that a folder's name means, or ``None``.

    Examples:
        >>> own_split("Train"), own_split("val2017"), own_split("benign")
        ('train', 'validation', None)
    """
    return _SPLITS.get(folder.lower().rstrip("0123456789"))


def split_meta(path: Path, folder: Path) -> dict[str, str]:
    """Return a case's ``meta`` of the split that the first folder on the way to its image means."""
    first, *rest = path.relative_to(folder).parts
    split = own_split(first) if rest else None
    return {} if split is None else {"official_split": split}


def known_class(label: object) -> str | None:
    """Return the class that a table's cell or a folder's name means, or ``None``.

    Examples:
        >>> known_class(" Malignant"), known_class("cyst")
        ('malignant', None)
    """
    try:
        return CLASSES[class_index(str(label))]
    except InputError:
        return None


def class_in_name(stem: str) -> str | None:
    """Return the class that a file's name begins with as a word, or ``None``.

    Examples:
        >>> class_in_name("Benign_001"), class_in_name("benign1"), class_in_name("normalized_1")
        ('benign', 'benign', None)
    """
    match = _CLASS.match(stem)
    return match[0].lower() if match else None


def index_images(
    root: Path, files: Iterable[Path], problems: list[DatasetIssue], folder: Path | None = None
) -> dict[str, Path]:
    """Return image files by path within a folder without suffix (``p1/scan``), in natural order.

    Files without suffix are taken where their content is DICOM. Other files, and subfolders that
    ``visible_files`` did not enter, become ``stray_file`` problems. Where two images differ in
    suffix alone (``x.png``, ``x.jpg``), the suffix that comes first in ``IMAGE_SUFFIXES`` is taken
    and the other is reported as ``duplicate_id``. Letters are ``composed``.

    Args:
        root: the dataset's folder, to which the problems' file names are relative.
        files: within ``folder``.
        problems: gets what is found.
        folder: ``root`` where it is not given.
    """
    by_key: dict[str, list[Path]] = {}
    for path in files:
        if not path.is_dir() and (is_image_file(path) or is_bare_dicom(path)):
            key = path.relative_to(folder or root).with_name(image_stem(path)).as_posix()
            by_key.setdefault(composed(key), []).append(path)
        else:
            problems.append(problem(root, "stray_file", path, _why_stray(path)))
    return {key: _first_of(root, key, paths, problems) for key, paths in by_key.items()}


def _why_stray(path: Path) -> str:
    if not path.is_dir():
        return "not an image; expected only images here"
    if os.access(path, os.R_OK | os.X_OK):
        return "a link to a folder that it lies in; not followed, remove it"
    return "a folder that may not be read; its files were left out"


def case_ids(root: Path, keys: Iterable[str], problems: list[DatasetIssue]) -> dict[str, str]:
    r"""Return the ids of a dataset's images by their paths, as ``index_images`` gives them.

    The id is the file's name (see ``safe_id``), without the folders in front of it. Names that
    several images have, letter case aside, are told apart by these folders: ``p1/scan`` and
    ``p2/scan`` become ``p1-scan`` and ``p2-scan``. Those that are still the same are numbered:
    ``A`` and ``a`` become ``A`` and ``a-2``. One ``renamed_id`` problem for all says either.

    Examples:
        >>> found = []
        >>> case_ids(Path(), ["p1/scan", "p2/scan", "p2/other", "A", "a"], found)
        {'p1/scan': 'p1-scan', 'p2/scan': 'p2-scan', 'p2/other': 'other', 'A': 'A', 'a': 'a-2'}
        >>> print(*(note.message for note in found), sep="\n")
        files of one name in several folders; these are part of their ids: 'p1-scan', 'p2-scan'
        files whose names some systems take for one; their ids are numbered: 'A', 'a-2'
    """
    names = {key: safe_id(key.rpartition("/")[2]) for key in keys}
    same: dict[str, list[str]] = {}
    for key, name in names.items():
        same.setdefault(id_key(name), []).append(key)
    taken = {name for name, group in same.items() if len(group) == 1}
    ids: dict[str, str] = {}
    apart: list[str] = []
    numbered: list[str] = []
    for key, name in names.items():
        ids[key] = name
        group = same[id_key(name)]
        if len(group) > 1:
            ids[key] = unique_id(safe_id(key.replace("/", "-")), taken)
            taken.add(id_key(ids[key]))
            folders = {id_key(one.rpartition("/")[0]) for one in group}
            (apart if len(folders) == len(group) else numbered).append(ids[key])
    for renamed, why in (
        (apart, "files of one name in several folders; these are part of their ids"),
        (numbered, "files whose names some systems take for one; their ids are numbered"),
    ):
        if renamed:
            message = f"{why}: {shown(map(repr, renamed))}"
            problems.append(problem(root, "renamed_id", root, message))
    return ids


def shown(names: Iterable[str]) -> str:
    """Return the first of some names for a message.

    Examples:
        >>> shown(["a", "b"]), shown("abcdefgh")
        ('a, b', 'a, b, c, d, e, f, …')
    """
    first = list(islice(names, _SHOWN + 1))
    return ", ".join(first[:_SHOWN] + ["…"] * (len(first) > _SHOWN))


def _first_of(root: Path, key: str, paths: list[Path], problems: list[DatasetIssue]) -> Path:
    first, *others = sorted(paths, key=_suffix_rank)
    stem = composed(image_stem(first))
    for path in others:
        message = f"another file of the id {stem!r}; {first.name} was taken: remove one of them"
        problems.append(problem(root, "duplicate_id", path, message, stem))
    return first


def _suffix_rank(path: Path) -> tuple[int, str]:
    suffix = path.name[len(image_stem(path)) :].lower()
    known = suffix in IMAGE_SUFFIXES  # bare DICOM has none
    return IMAGE_SUFFIXES.index(suffix) if known else len(IMAGE_SUFFIXES), path.as_posix()
