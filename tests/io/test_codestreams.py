from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from busi_monai.io.untrusted import coded_size

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)


def coded(format: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        coded("JPEG"),
        coded("JPEG", progressive=True),
        coded("JPEG2000", no_jp2=True),
        coded("JPEG2000"),
    ],
    ids=["baseline", "progressive", "codestream", "jp2"],
)
def test_the_size_is_found(content: bytes) -> None:
    assert coded_size(content) == (48, 64)


def test_a_size_in_another_box_or_comment_is_not_believed() -> None:
    fake = coded("JPEG2000", PIXELS[:16, :16], no_jp2=True)[:100]
    assert coded_size(fake) == (16, 16)
    whole = coded("JPEG2000")
    free = (len(fake) + 8).to_bytes(4, "big") + b"free" + fake
    assert coded_size(whole[:12] + free + whole[12:]) == (48, 64)  # after the signature box
    jpeg = coded("JPEG")
    comment = b"\xff\xfe" + (len(fake) + 2).to_bytes(2, "big") + fake
    assert coded_size(jpeg[:2] + comment + jpeg[2:]) == (48, 64)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\x00\xff\xc0", b"notes", b"\0\0\0\x0cjP  "]
)
def test_what_states_no_size(content: bytes) -> None:
    assert coded_size(content) is None
