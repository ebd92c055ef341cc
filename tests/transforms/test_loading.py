from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from busi_monai.errors import ImageReadError
from busi_monai.io.images import write_mask, write_png
from busi_monai.io.pixel_scales import NO_SPACING, PixelScale
from busi_monai.transforms import LoadLesionMaskd, LoadUltrasoundd


@pytest.fixture
def loaded() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 61), dtype=np.uint8)


def test_a_file_becomes_a_channel_first_tensor_in_unit_range(
    tmp_path: Path, loaded: np.ndarray
) -> None:
    path = tmp_path / "bénign (1).png"
    write_png(path, loaded)
    image = LoadUltrasoundd()({"image": str(path)})["image"]
    assert isinstance(image, MetaTensor)
    assert image.dtype == torch.float32
    assert np.array_equal(image.numpy()[0], loaded.astype(np.float32) / np.float32(255))
    assert image.meta["filename_or_obj"] == str(path)
    assert image.meta["spatial_shape"].tolist() == [40, 61]
    assert PixelScale.from_json(image.meta["scale"]) == NO_SPACING
    assert image.meta["warnings"] == "[]"


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_an_array_gives_the_same_pixels_as_its_file(
    tmp_path: Path, loaded: np.ndarray, channels: int | None
) -> None:
    path = tmp_path / "a.png"
    write_png(path, loaded)
    array = loaded if channels is None else np.repeat(loaded[..., None], channels, axis=2)
    if channels == 4:
        array[..., 3] = 255
    load = LoadUltrasoundd()
    from_array = load({"image": array})["image"]
    assert torch.equal(from_array.as_tensor(), load({"image": path})["image"].as_tensor())
    assert from_array.meta["filename_or_obj"] == ""


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(0, 1, 60).reshape(6, 10),
        np.linspace(0, 255, 60).reshape(6, 10),
        (np.linspace(0, 1, 60) * 65535).round().astype(np.uint16).reshape(6, 10),
        np.linspace(0, 255, 60).round().astype(np.int32).reshape(6, 10),
    ],
    ids=["unit", "bytes as floats", "16 bits", "wide integers"],
)
def test_arrays_of_every_range_end_in_unit_range(array: np.ndarray) -> None:
    image = LoadUltrasoundd()({"image": array})["image"]
    assert torch.allclose(
        image.as_tensor().flatten(), torch.linspace(0, 1, 60), rtol=0, atol=0.5 / 255
    )


@pytest.mark.parametrize("array", [np.zeros((1, 5, 7)), np.zeros(9), np.full((4, 4), np.nan)])
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageReadError, match=r"array|NaN"):
        LoadUltrasoundd()({"image": array})


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="nowhere"):
        LoadUltrasoundd()({"image": str(tmp_path / "nowhere.png")})


def test_masks_become_zero_and_one_from_file_and_array(tmp_path: Path) -> None:
    mask = np.zeros((8, 11), dtype=np.uint8)
    mask[2:5, 3:9] = 1
    write_mask(tmp_path / "m.png", mask)
    load = LoadLesionMaskd()
    for source in (tmp_path / "m.png", mask, mask.astype(bool), mask[..., None] * 255, mask[None]):
        label = load({"label": source})["label"]
        assert label.dtype == torch.float32
        assert np.array_equal(label.numpy()[0], mask)


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", np.ones((8, 11)))
    with pytest.raises(ImageReadError, match=r"m\.png: the mask has 11×8 pixels, its image 8×11"):
        LoadLesionMaskd()({"image": torch.zeros(1, 11, 8), "label": tmp_path / "m.png"})


def test_a_mask_array_of_wrong_shape_is_refused() -> None:
    with pytest.raises(ImageReadError, match=r"\(H, W\)"):
        LoadLesionMaskd()({"label": np.zeros((3, 4, 5))})


def test_no_mask_counts_as_absent() -> None:
    load = LoadLesionMaskd(allow_missing_keys=True)
    assert load({"label": None, "id": "a"}) == {"id": "a"}
    with pytest.raises(KeyError):
        LoadLesionMaskd()({"id": "a"})
