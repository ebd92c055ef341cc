"""Which image an annotation file means: by its path, by its name, or by lying beside it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from busi_monai.datasets.listing import index_images, own_part
from busi_monai.io.image_files import id_key, image_stem

__all__ = ["ImagePaths"]

_ABSOLUTE = re.compile(r"/|[a-z]:", re.IGNORECASE)


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
        Where the file's name or folder tells a part of a split (``instances_train.json``), an image
        of another part is another image.
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
        own = file.stem == image_stem(name)  # an image's own file, which tells no part by its name
        words = [] if own else re.split(r"[\W_]+", file.stem)
        part = _parts_of(words) or _parts_of(_folders(bases[0]))
        if not part:
            return meant
        parts = {path: _parts_of(_folders(self._place(path))) for path in meant}
        within = [path for path in meant if parts[path] == part]
        return within or [path for path in meant if not parts[path]]

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


def _parts_of(words: Sequence[str]) -> set[str]:
    return {part for word in words if (part := own_part(word))}
