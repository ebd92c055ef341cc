from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from busi_monai.errors import ImageReadError
from busi_monai.io import ImageBytes, read_image
from busi_monai.io.untrusted import coded_size

Save = Callable[..., Path]

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


@pytest.fixture
def still(save_ultrasound: Save, tmp_path: Path) -> Callable[..., Path]:
    pixels = np.arange(2400, dtype=np.uint16).reshape(40, 60).astype(np.uint8)
    return lambda **tags: save_ultrasound(tmp_path / "x.dcm", pixels, **tags)


def tiny_elements(dataset: Dataset, count: int = 30_000) -> Dataset:
    for number in range(count):
        dataset.add_new((0x1001, 0x1000 + number), "US", 1)
    return dataset


def assert_refused(path: Path, reason: str) -> None:
    """A file of one's own is read, an untrusted one is not."""
    read_image(path)
    with pytest.raises(ImageReadError, match=reason):
        read_image(ImageBytes(path.read_bytes()))


def test_deflated_content(still: Callable[..., Path]) -> None:
    path = still()
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert_refused(path, "deflated")


def test_many_items(still: Callable[..., Path]) -> None:
    items = Sequence([Dataset() for _ in range(5_001)])
    assert_refused(still(SequenceOfUltrasoundRegions=items), "5,000 items")


def test_many_elements(still: Callable[..., Path]) -> None:
    path = still()
    tiny_elements(pydicom.dcmread(path)).save_as(path)
    assert_refused(path, "too many elements")


@pytest.mark.parametrize("implicit", [False, True])
def test_many_elements_in_the_regions(still: Callable[..., Path], implicit: bool) -> None:
    path = still(SequenceOfUltrasoundRegions=Sequence([tiny_elements(Dataset())]))
    if implicit:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert_refused(path, "sequence of [0-9,]+ bytes")


def test_long_sequences_that_nobody_asks_for_pass(still: Callable[..., Path]) -> None:
    groups = Sequence([tiny_elements(Dataset())])
    path = still(PerFrameFunctionalGroupsSequence=groups)
    found = read_image(ImageBytes(path.read_bytes()))
    assert np.array_equal(found.pixels, read_image(path).pixels)
