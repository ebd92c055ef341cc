"""Where annotation files lie, and which image each means: by path, by name, or lying beside it."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from busi_monai.datasets.listing import child_folder, index_images, own_split
from busi_monai.datasets.tables import find_labels
from busi_monai.io.image_files import id_key, image_stem, is_hidden, is_image_file

__all__ = [
    "ImagePaths",
    "has_annotations",
    "is_coco_name",
    "yolo_folders",
]

_COCO_NAMES = ("coco", "annotation", "instances")
_HEAD = 65536  # bytes; categories, licenses and what else comes first fit in it
_COCO = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
_LABELME = re.compile(rb'"shapes"\s*:\s*\[')


_ABSOLUTE = re.compile(r"/|[a-z]:", re.IGNORECASE)


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
    for place in [root, *_split_folders(root)]:
        images, labels = child_folder(place, "images"), child_folder(place, "labels")
        if images is None or labels is None:
            continue
        if any(path.suffix.lower() == ".txt" for path in _files_below(labels)):
            found.append((images, labels))
    return found


def _places(root: Path) -> list[Path]:
    """Return the folders that annotations are looked for in, to tell a layout."""
    images, annotations = child_folder(root, "images"), child_folder(root, "annotations")
    splits = _split_folders(root)
    inner = [child_folder(split, "images") for split in splits]
    below = [] if images is None else [images, *_folders_below(images)]
    return [path for path in (root, annotations, *splits, *inner, *below) if path is not None]


def _split_folders(root: Path) -> list[Path]:
    return [path for path in _folders_in(root) if own_split(path.name)]


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


class ImagePaths:
    """The images below a folder, found by what annotation files call them.

    Names compare as ``id_key`` has it: letter case and the ways to write an accent do not matter,
    except where they tell two images apart. Links count as the files that they seem to be.
    """

    def __init__(self, root: Path, images: Sequence[Path]) -> None:
        """Index the images, all of which lie below ``root``."""
        self.root = root
        self._by_place = _Index((self._place(path), path) for path in images)
        self._by_name = _Index((path.name, path) for path in images)
        self._by_stem = _Index((self._stem(path, image_stem(path)), path) for path in images)
        # of those that differ in suffix alone, the one that readers keep
        self._kept = _Index(index_images(root, images, []).items())

    def find(self, file: Path, name: str) -> list[Path]:
        """Return the images that a name in an annotation file can mean: none, one or several.

        A name may hold folders, in either kind of slashes. It counts from the file's folder, from
        the root or from ``images``; else the image of that name is meant whose folders end alike.
        Where the file's name or folder tells a split (``instances_train.json``), an image of
        another split is another image.
        """
        name = name.replace("\\", "/")
        bases = (self._place(file.parent), "", "images")
        if not _ABSOLUTE.match(name):
            for base in bases:
                if found := self._at(posixpath.normpath(posixpath.join(base, name))):
                    return [found]
        folders = _folders(name)
        alike = self._by_name.get(posixpath.basename(name))
        meant = [path for path in alike if _end_alike(folders, _folders(self._place(path)))]
        if not meant and _ABSOLUTE.match(name):
            meant = alike
        own = file.stem == image_stem(name)  # an image's own file, which tells no split by its name
        words = [] if own else re.split(r"[\W_]+", file.stem)
        split = _splits_of(words) or _splits_of(_folders(bases[0]))
        if not split:
            return meant
        splits = {path: _splits_of(_folders(self._place(path))) for path in meant}
        within = [path for path in meant if splits[path] == split]
        return within or [path for path in meant if not splits[path]]

    def beside(self, file: Path, name: str = "") -> tuple[Path | None, Path | None]:
        """Return the image beside an annotation file, and another one that it names, if any.

        Of images that differ in suffix alone the one that the file names is taken, else the one
        that ``index_images`` keeps.
        """
        stem = self._stem(file, file.stem)
        within = self._by_stem.get(stem)
        named = self._at(
            posixpath.normpath(posixpath.join(self._place(file.parent), name.replace("\\", "/")))
        )
        if named in within:
            return named, None
        return _only(self._kept.get(stem)), named

    def of_stem(self, folder: Path, stem: PurePosixPath) -> Path | None:
        """Return the image of a path within a folder without suffix."""
        return _only(self._kept.get(posixpath.join(self._place(folder), str(stem))))

    def _at(self, place: str) -> Path | None:
        return _only(self._by_place.get(place))

    def _place(self, path: Path) -> str:
        place = path.relative_to(self.root).as_posix()
        return "" if place == "." else place

    def _stem(self, path: Path, stem: str) -> str:
        return posixpath.join(self._place(path.parent), stem)


class _Index:
    """Images by a name, of which a looser match counts where there is no exact one."""

    def __init__(self, named: Iterable[tuple[str, Path]]) -> None:
        self._exact: dict[str, list[Path]] = {}
        self._alike: dict[str, list[Path]] = {}
        for name, path in named:
            self._exact.setdefault(name, []).append(path)
            self._alike.setdefault(id_key(name), []).append(path)

    def get(self, name: str) -> list[Path]:
        return self._exact.get(name) or self._alike.get(id_key(name), [])


def _only(images: list[Path]) -> Path | None:
    return images[0] if len(images) == 1 else None


def _folders(name: str) -> list[str]:
    """Return a name's folders, without those that tell no images apart."""
    parts = map(id_key, name.split("/")[:-1])
    return [part for part in parts if part not in {"", ".", "..", "images"}]


def _end_alike(stated: list[str], found: list[str]) -> bool:
    """Whether the folders of a name and of an image are the same as far as both go."""
    length = min(len(stated), len(found))
    return length == 0 or stated[-length:] == found[-length:]


def _splits_of(words: Sequence[str]) -> set[str]:
    return {split for word in words if (split := own_split(word))}
