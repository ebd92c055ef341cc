"""Untrusted files: their names made harmless, their images found and limited."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from busi_monai.errors import ImageReadError
from busi_monai.inference import frame_id
from busi_monai.io.decoding import DecodingPool
from busi_monai.io.image_files import ImageBytes, image_stem
from busi_monai.io.images import ImageFile
from busi_monai.serving.limits import Limits

__all__ = ["Upload", "UploadedImages", "images_of", "safe_name", "uploads_of"]

_LONGEST_NAME = 80


@dataclass(frozen=True)
class Upload:
    """An untrusted file.

    Attributes:
        id: what answers call it, unique within a request.
        name: its name without anything that could be a path, a formula or markup.
        content: its bytes.
    """

    id: str
    name: str
    content: bytes


@dataclass(frozen=True)
class UploadedImages:
    """The images of an upload that are to be predicted.

    Attributes:
        images: (id, image) of a still, or of the frames of a loop.
        frames: number of frames in the file.
        frames_per_second: rate of a loop, or ``None``.
    """

    images: tuple[tuple[str, ImageFile], ...]
    frames: int
    frames_per_second: float | None


def safe_name(name: str | None) -> str:
    r"""Return a client's file name as it may be shown, written into a table and saved under.

    Examples:
        >>> safe_name("../../etc/passwd"), safe_name("C:\\scans\\a b.png"), safe_name("=1+1.csv")
        ('passwd', 'a b.png', '1+1.csv')
        >>> safe_name("<b>\x00ü</b>.png"), safe_name(None), safe_name("..")
        ('b_.png', 'upload', 'upload')
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name or ""))[-1]
    kept = "".join(c if c.isalnum() or c in " ._-+()[]#" else "_" for c in last)
    kept = re.sub(r"_+", "_", kept).lstrip("=+-@ .#_").rstrip(" .")
    if len(kept) > _LONGEST_NAME:
        kept = kept[: _LONGEST_NAME - 10] + kept[-10:]
    return kept or "upload"


def uploads_of(files: Iterable[tuple[str | None, bytes]]) -> list[Upload]:
    """Return the files of a request with ids that differ.

    Examples:
        >>> [upload.id for upload in uploads_of([("a.png", b""), ("A.jpg", b""), (None, b"")])]
        ['a', 'A-2', 'upload']
    """
    taken: set[str] = set()
    uploads = []
    for given, content in files:
        name = safe_name(given)
        stem = image_stem(name) or "upload"
        id, number = stem, 1
        while id.casefold() in taken:
            number += 1
            id = f"{stem}-{number}"
        taken.add(id.casefold())
        uploads.append(Upload(id, name, content))
    return uploads


def images_of(upload: Upload, limits: Limits, decoding: DecodingPool) -> UploadedImages:
    """Return the images of an upload, of a long loop as many as are allowed, evenly spaced.

    Raises:
        ImageReadError: if the file is empty, or a DICOM file that cannot be read or has too many
            pixels; other formats are not opened yet.
    """
    # the pixels of a loop are counted together; only one of its frames is in memory at a time
    whole = ImageBytes(upload.content, upload.name, limits.max_pixels * limits.max_frames)
    header = decoding.header(whole)
    if header is None or header.frames == 1:
        still = ImageBytes(upload.content, upload.name, limits.max_pixels)
        return UploadedImages(((upload.id, ImageFile(still)),), 1, None)
    height, width = header.size
    if height * width > limits.max_pixels:
        raise ImageReadError(
            f"{whole}: frames of {width}×{height} pixels, more than {limits.max_pixels:,}"
        )
    shown = min(header.frames, limits.max_frames)
    numbers = [place * header.frames // shown for place in range(shown)]
    chosen = [ImageFile(whole, number) for number in numbers]
    images = tuple((frame_id(upload.id, image), image) for image in chosen)
    return UploadedImages(images, header.frames, header.frames_per_second)
