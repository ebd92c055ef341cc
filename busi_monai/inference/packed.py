"""Many names in one piece of memory: for hundred thousands of images, few bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

__all__ = ["PackedPaths", "PackedTexts"]


class PackedTexts(Sequence[str]):
    """Texts that are made anew whenever they are asked for.

    Examples:
        >>> texts = PackedTexts(["a", "", "läsion"])
        >>> list(texts), texts[-1], list(texts[::2])
        (['a', '', 'läsion'], 'läsion', ['a', 'läsion'])
    """

    def __init__(self, texts: Iterable[str]) -> None:
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = b"".join(pieces)
        self._ends = array("Q", accumulate(map(len, pieces), initial=0))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: Any) -> Any:
        """Return one text, or those of a slice."""
        if isinstance(place, slice):
            return type(self)(self[number] for number in range(*place.indices(len(self))))
        number = range(len(self))[place]
        piece = self._bytes[self._ends[number] : self._ends[number + 1]]
        return piece.decode("utf-8", "surrogatepass")


class PackedPaths(Sequence[Path]):
    """The same for paths.

    Examples:
        >>> PackedPaths([Path("a"), Path("b") / "c"])[1:][0]
        PosixPath('b/c')
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._texts = PackedTexts(map(str, paths))

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, place: Any) -> Any:
        """Return one path, or those of a slice."""
        if isinstance(place, slice):
            return type(self)(map(Path, self._texts[place]))
        return Path(self._texts[place])
