"""A file to be read: a path, or a content in memory of which only the content is believed."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import BinaryIO

from busi_monai.errors import ImageReadError

__all__ = [
    "DICOMDIR",
    "MAX_PIXELS",
    "ImageBytes",
    "ImageSource",
    "head_of",
    "is_hidden",
    "max_pixels_of",
    "opened",
    "size_of",
    "suffix_of",
]

MAX_PIXELS = 100_000_000
"""Pixels beyond which a picture in a file on disk is no ultrasound picture."""

STRANGERS_PIXELS = 25_000_000
"""The same for all pictures of an upload together: each takes up to 36 bytes while it is read."""

DICOMDIR = "DICOMDIR"
"""Name of the directory of a medium with DICOM files."""

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class ImageBytes:
    """A file's content in memory, as it came from a stranger.

    Its format is told by its content alone, and only the common ones are decoded.

    Attributes:
        content: the bytes.
        name: what messages call it; nothing is read from or written to a file of that name.
        max_pixels: a file of more pixels than this in all its frames is refused before any is
            decoded.
    """

    content: bytes = field(repr=False)
    name: str = "upload"
    max_pixels: int = STRANGERS_PIXELS

    def __str__(self) -> str:
        """Return the name, as messages tell it."""
        return self.name


ImageSource = str | Path | ImageBytes


def opened(source: Path | ImageBytes) -> AbstractContextManager[BinaryIO]:
    """Return the binary stream of a file or of bytes, to be used in a ``with`` statement."""
    return io.BytesIO(source.content) if isinstance(source, ImageBytes) else source.open("rb")


def max_pixels_of(source: Path | ImageBytes) -> int:
    """Return how many pixels the picture may have."""
    return source.max_pixels if isinstance(source, ImageBytes) else MAX_PIXELS


def size_of(source: Path | ImageBytes) -> int:
    """Return the number of bytes of a file or content."""
    return len(source.content) if isinstance(source, ImageBytes) else source.stat().st_size


def head_of(source: Path | ImageBytes, length: int) -> bytes:
    """Return the first bytes, fewer where there are no more.

    Raises:
        ImageReadError: if there is no such file, or it is empty.
    """
    if isinstance(source, Path) and not source.is_file():
        raise ImageReadError(f"{source}: no such file")
    with opened(source) as stream:
        head = stream.read(length)
    if not head:
        raise ImageReadError(f"{source}: the file is empty (0 bytes)")
    return head


def suffix_of(path: PurePath) -> str:
    """Return a file name's suffix in lower case; the numbers of a DICOM UID are none.

    Examples:
        >>> suffix_of(Path("a/B.PNG")), suffix_of(Path("1.2.840.7")), suffix_of(Path("IM0001"))
        ('.png', '', '')
    """
    suffix = path.suffix.lower()
    return suffix if suffix.strip(".0123456789") else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder has a leading dot or is left behind by a system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
