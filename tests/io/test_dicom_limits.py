from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from busi_monai.errors import ImageReadError
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import read_image

Save = Callable[..., Path]


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
