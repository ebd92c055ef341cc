"""What an untrusted file may not hold: it would be decoded, unpacked or parsed without a limit.

No value of a DICOM file stands in a message: any may name a patient.
"""

from __future__ import annotations

import io
from typing import Any

from busi_monai.errors import ImageReadError
from busi_monai.io.image_files import ImageBytes

__all__ = [
    "CountedReads",
    "check_codestream",
    "check_content",
    "check_scans",
    "check_sequences",
    "coded_size",
]

MAX_SCANS = 64
"""Scans of a progressive JPEG beyond which it only costs time; encoders write about ten."""

_RLE = "1.2.840.10008.1.2.5"  # states no size, and cannot hold more than is stated elsewhere
_J2K = b"\xff\x4f\xff\x51"
_JP2 = b"jP  "
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def check_scans(content: bytes, name: object) -> None:
    """Refuse a JPEG of too many scans; within coded data their marker cannot occur."""
    if content.count(b"\xff\xda") > MAX_SCANS:
        raise ImageReadError(f"{name}: more than {MAX_SCANS} scans in one image")


def coded_size(content: bytes) -> tuple[int, int] | None:
    """Return (height, width) in pixels that a JPEG, JPEG-LS or JPEG 2000 codestream states.

    ``None`` for any other content. ITU-T T.81 B.2.2, T.87 C.2.2, T.800 A.5.1.

    Examples:
        >>> coded_size(bytes.fromhex("ffd8 ffc0 0011 08 0010 0020 03 012200 021101 031101"))
        (16, 32)
    """
    start = _start_of_j2k(content)
    if start is not None:
        fields = content[start + 8 : start + 24]
        right, bottom, left, top = (
            int.from_bytes(fields[at : at + 4], "big") for at in range(0, 16, 4)
        )
        return bottom - top, right - left
    at = 2
    while content[:2] == b"\xff\xd8" and at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in _FRAME_HEADERS:
            size = content[at + 5 : at + 9]
            return int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")
        if marker == 0xFF or marker in _NO_LENGTH:
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def _start_of_j2k(content: bytes) -> int | None:
    """Return where a JPEG 2000 codestream begins, by itself or in the boxes of a JP2 file."""
    if content.startswith(_J2K):
        return 0
    at = 0
    while content[4:8] == _JP2 and at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind == b"jp2c":
            start = at + (16 if length == 1 else 8)
            return start if content[start : start + 4] == _J2K else None
        if length < 8:  # lasts to the end, or is too long for an image
            return None
        at += length
    return None


def check_codestream(dataset: Any, frame: int, frames: int, name: str) -> None:
    """Refuse a compressed frame, counted from 0, that is not as large as the DICOM file states.

    Raises:
        ImageReadError: if the codestream states another size, or has too many scans.
    """
    from pydicom.encaps import get_frame

    content = get_frame(dataset.PixelData, frame, number_of_frames=frames)
    found, stated = coded_size(content), (int(dataset.Rows), int(dataset.Columns))
    if found is None and dataset.file_meta.TransferSyntaxUID != _RLE:
        raise ImageReadError(f"{name}: the coded image is damaged, or of an unknown kind")
    if found not in (None, stated):
        raise ImageReadError(f"{name}: the coded image is not of the size that is stated")
    if content[:2] == b"\xff\xd8":
        check_scans(content, name)


_DEFLATED = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.8.1")
_ITEM = b"\xfe\xff\x00\xe0"
_MAX_ITEMS = 5_000
_MAX_READS = 50_000  # pydicom's of a file; two or three an element, of which headers hold hundreds
_ULTRASOUND_REGIONS = 0x0018_6011
_LONGEST_SEQUENCE = 250_000  # bytes


def check_content(source: ImageBytes) -> None:
    """Refuse a content that is deflated or of too many items, before any of it is parsed."""
    if any(syntax in source.content for syntax in _DEFLATED):
        raise ImageReadError(f"{source}: deflated DICOM files are not taken; save it uncompressed")
    if source.content.count(_ITEM) > _MAX_ITEMS:
        raise ImageReadError(f"{source}: a DICOM file of more than {_MAX_ITEMS:,} items")


class CountedReads(io.BytesIO):
    """A content whose ``read`` refuses to go on if it holds an element for each few bytes."""

    def __init__(self, source: ImageBytes) -> None:
        super().__init__(source.content)
        self._source = source
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes."""
        self._reads += 1
        if self._reads > _MAX_READS:
            raise ImageReadError(f"{self._source}: a DICOM file of too many elements")
        return super().read(size)


def check_sequences(dataset: Any, source: ImageBytes) -> None:
    """Refuse a long sequence that would be parsed as soon as it is asked for.

    Those are the ultrasound regions, and whatever calls itself a sequence and should be none. Long
    sequences that are never asked for pass.
    """
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    for tag in dataset.keys():  # noqa: SIM118  (the dataset itself would parse each element)
        element = dataset.get_item(tag)
        known = dictionary_VR(tag) if dictionary_has_tag(tag) else None
        parsed = tag == _ULTRASOUND_REGIONS or (element.VR == "SQ" and known != "SQ")
        content = element.value
        if parsed and isinstance(content, bytes) and len(content) > _LONGEST_SEQUENCE:
            raise ImageReadError(f"{source}: a DICOM sequence of {len(content):,} bytes")
