"""Files to be read: what a name means, ids that every system can hold, and contents in memory."""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Container
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import BinaryIO

from busi_monai.errors import ImageReadError

__all__ = [
    "DICOMDIR",
    "IMAGE_SUFFIXES",
    "MAX_ID_BYTES",
    "MAX_PIXELS",
    "ImageBytes",
    "ImageSource",
    "composed",
    "head_of",
    "id_key",
    "image_of_mask",
    "image_stem",
    "is_hidden",
    "is_image_file",
    "max_pixels_of",
    "opened",
    "safe_id",
    "size_of",
    "suffix_of",
    "unique_id",
    "without_image_suffix",
]

MAX_ID_BYTES = 120
"""Longest id in UTF-8; file systems take 255 bytes with all that stands before and behind it."""

_HASH_LENGTH = 8


def safe_id(name: str) -> str:
    r"""Return the id of a name: fit to be a file's name on every system, and in every table.

    Characters that some system refuses, control characters and bytes that are not UTF-8 become
    ``_``. A name of more than ``MAX_ID_BYTES`` is cut, and ends with a hash of the whole, so that
    names which begin alike stay apart. Letters are ``composed``. Any other name stays as it is.

    Args:
        name: as Python has it from the file system.

    Examples:
        >>> safe_id("benign (1)"), safe_id("läsion"), safe_id("two\nlines"), safe_id("a:b")
        ('benign (1)', 'läsion', 'two_lines', 'a_b')
        >>> import os
        >>> safe_id(os.fsdecode(b"l\xe4sion"))
        'l_sion'
        >>> len(safe_id(300 * "ä").encode())
        119
    """
    name = composed(name)
    safe = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "_", name).strip(" .") or "image"
    if len(safe.encode()) <= MAX_ID_BYTES:
        return safe
    whole = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    kept = safe.encode()[: MAX_ID_BYTES - _HASH_LENGTH - 1].decode("utf-8", "ignore")
    return f"{kept}~{whole[:_HASH_LENGTH]}"


def composed(text: str) -> str:
    """Return a text with each letter in one form, as some systems write ``ä`` as two characters."""
    return unicodedata.normalize("NFC", text)


def id_key(id: str) -> str:
    """Return what is the same for two ids that some file system holds to be one name."""
    return composed(id).casefold()


def unique_id(id: str, taken: Container[str]) -> str:
    """Return the id, numbered from 2 where its ``id_key`` is taken.

    Examples:
        >>> unique_id("Scan", {"scan", "scan-2"})
        'Scan-3'
    """
    candidate, number = id, 1
    while id_key(candidate) in taken:
        number += 1
        candidate = f"{id}-{number}"
    return candidate


IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz", ".dcm", ".dicom",
    ".jfif", ".jpe", ".jp2", ".j2k", ".jpx", ".webp", ".avif", ".gif", ".pgm", ".ppm", ".pbm",
    ".pnm", ".tga", ".dib", ".pcx",
)  # fmt: skip
"""Endings by which a folder's files are taken as images; a file that is named is read anyhow."""

MAX_PIXELS = 100_000_000
"""Pixels beyond which an image in a file on disk is no ultrasound image."""

STRANGERS_PIXELS = 25_000_000
"""The same for all images of an upload together: each takes up to 36 bytes while it is read."""

DICOMDIR = "DICOMDIR"
"""Name of the directory of a medium with DICOM files."""

_LONGEST_FIRST = sorted(IMAGE_SUFFIXES, key=len, reverse=True)
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
_MASK = re.compile(r"(?P<image>.+)_mask(?:_[0-9]+)?", re.IGNORECASE)
_LIKE_MASK = re.compile(r"[\W_]*(?P<word>masks?)(?![^\W\d_])", re.IGNORECASE)
_MASK_OF = re.compile(r"masks?[\W_]+", re.IGNORECASE)


@dataclass(frozen=True)
class ImageBytes:
    """A file's content in memory, untrusted.

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
    """Return how many pixels the image may have."""
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


def is_image_file(path: str | Path) -> bool:
    """Whether the file's name ends like an image's."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def without_image_suffix(name: str) -> str:
    """Return a name without the suffix of an image, any other ending kept.

    Examples:
        >>> without_image_suffix("scan.v2.nii.gz"), without_image_suffix("10.5")
        ('scan.v2', '10.5')
    """
    for suffix in _LONGEST_FIRST:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def image_stem(path: str | PurePath) -> str:
    """Return a file's name without its suffix.

    ``.nii.gz`` is one suffix, and the numbers of a DICOM UID are none.

    Examples:
        >>> image_stem("benign (1).PNG"), image_stem("1.2.840.7"), image_stem("scan.v2.nii.gz")
        ('benign (1)', '1.2.840.7', 'scan.v2')
    """
    name = Path(path).name
    stem = without_image_suffix(name)
    return stem if stem != name or not suffix_of(Path(name)) else Path(name).stem


def image_of_mask(stem: str, beside: Container[str] = ()) -> tuple[str, bool] | None:
    """Return which image a file's name makes it the mask of.

    Args:
        stem: of the file's name.
        beside: ``id_key`` of the stems of the files beside it.

    Returns:
        The image's stem, and whether the name is one that masks have: ``<image>_mask`` or
        ``<image>_mask_<n>``, the image there or not. Names that are only like these count where the
        image is there. ``None`` for no mask.

    Examples:
        >>> image_of_mask("x_mask_1"), image_of_mask("X-masks (2)", {"x"}), image_of_mask("x-masks")
        (('x', True), ('X', False), None)
        >>> image_of_mask("x_mask (2)", {"x (2)"}), image_of_mask("mask_x", {"x"})
        (('x (2)', False), ('x', False))
    """
    match = _MASK.fullmatch(stem)
    if match:
        return match["image"], True
    prefix = _MASK_OF.match(stem)
    likely = [stem[prefix.end() :]] if prefix else []
    for tail in _LIKE_MASK.finditer(stem):
        for end in range(tail.start("word"), tail.start() - 1, -1):
            likely += [stem[:end], stem[:end] + stem[tail.end() :]]
    return next(((image, False) for image in likely if id_key(image) in beside), None)


def is_hidden(name: str) -> bool:
    """Whether a file or folder has a leading dot or is left behind by a system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
