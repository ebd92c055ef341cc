"""What an untrusted DICOM file may not hold: each would be unpacked or parsed without a limit.

No value of the file stands in a message: any may name a patient.
"""

from __future__ import annotations

import io
from typing import Any

from busi_monai.errors import ImageReadError
from busi_monai.io.image_files import ImageBytes

__all__ = ["CountedReads", "check_content", "check_sequences"]

_DEFLATED = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.8.1")
_ITEM = b"\xfe\xff\x00\xe0"
_MAX_ITEMS = 5_000
_MAX_READS = 50_000  # pydicom's of a file; two or three an element, of which headers hold hundreds
_ULTRASOUND_REGIONS = 0x0018_6011
_LONGEST_SEQUENCE = 250_000  # bytes


def check_content(source: ImageBytes) -> None:
    """Refuse a content before any of it is parsed.

    Raises:
        ImageReadError: if it is deflated or made of too many items.
    """
    if any(syntax in source.content for syntax in _DEFLATED):
        raise ImageReadError(f"{source}: deflated DICOM files are not taken; save it uncompressed")
    if source.content.count(_ITEM) > _MAX_ITEMS:
        raise ImageReadError(f"{source}: a DICOM file of more than {_MAX_ITEMS:,} items")


class CountedReads(io.BytesIO):
    """A content that is not read on if it holds an element for each few bytes.

    Args:
        source: the content.

    Raises:
        ImageReadError: by ``read``.
    """

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

    Args:
        dataset: as ``pydicom`` read it.
        source: what it was read from.

    Raises:
        ImageReadError: if there is one.
    """
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    tags = dataset.keys()  # iterating over the dataset itself would parse each element
    for tag in tags:
        element = dataset.get_item(tag)
        known = dictionary_VR(tag) if dictionary_has_tag(tag) else None
        parsed = tag == _ULTRASOUND_REGIONS or (element.VR == "SQ" and known != "SQ")
        content = element.value
        if parsed and isinstance(content, bytes) and len(content) > _LONGEST_SEQUENCE:
            raise ImageReadError(f"{source}: a DICOM sequence of {len(content):,} bytes")
