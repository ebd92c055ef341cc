from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from busi_monai.errors import ImageReadError
from busi_monai.io.images import read_mask
from busi_monai.io.mask_values import lesion_pixels

LESION = np.zeros((40, 60), dtype=bool)
LESION[8:32, 12:40] = True
LOWER = LESION & (np.arange(40)[:, None] >= 20)
RIM = ndimage.binary_dilation(LESION, iterations=2) & ~LESION
SOFT = ndimage.gaussian_filter(LESION * 255.0, 1.0)


def saved(path: Path, values: np.ndarray, **options: object) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


MAPS = {
    "0, 1, 2": LESION.astype(np.uint8) + LOWER,
    "0, 1, 2 in 16 bits": (LESION.astype(np.uint16) + LOWER),
    "0, 1, 2 in 32 bits": (LESION.astype(np.int32) + LOWER),
    "0, 1, 2 in floats": (LESION.astype(np.float32) + LOWER),
    "0, 7": LESION * np.uint8(7),
    "0, 3, 15": np.where(LOWER, 15, LESION * 3).astype(np.uint8),
    "0, 1, 255 around": np.where(RIM, 255, LESION).astype(np.uint8),
    "0, 1, 2, 255 around": np.where(RIM, 255, LESION.astype(np.uint8) + LOWER).astype(np.uint8),
    "0, 128, 255": np.where(LOWER, 255, LESION * 128).astype(np.uint8),
    "0, 127, 255": np.where(LOWER, 255, LESION * 127).astype(np.uint8),
    "0, 0.5, 1": np.where(LOWER, 1, LESION * 0.5).astype(np.float32),
    "0, 65535": LESION * np.uint16(65535),
    "bits": LESION,
}


@pytest.mark.parametrize("values", MAPS.values(), ids=MAPS.keys())
def test_a_label_map_is_the_lesion_it_labels(tmp_path: Path, values: np.ndarray) -> None:
    assert np.array_equal(read_mask(saved(tmp_path / "m.tif", values)), LESION)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("factor", [0.2, 1])
def test_soft_levels_are_cut_at_half_of_their_own_range(
    tmp_path: Path, dtype: type, factor: float
) -> None:
    soft = (SOFT * factor).astype(dtype)

    assert np.array_equal(read_mask(saved(tmp_path / "m.tif", soft)), soft >= soft.max() / 2)


def test_probabilities_that_never_reach_0_are_soft_levels(tmp_path: Path) -> None:
    soft = (0.004 + SOFT / 300).astype(np.float32)

    assert np.array_equal(read_mask(saved(tmp_path / "m.tif", soft)), SOFT.max() / 2 <= SOFT)


@pytest.mark.parametrize("highest", [1, 4, 128, 255])
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_a_mask_after_jpeg(tmp_path: Path, highest: int, suffix: str) -> None:
    options = {"quality": 75} | ({"compression": "jpeg"} if suffix == ".tif" else {})
    path = saved(tmp_path / f"m{suffix}", LESION * np.uint8(highest), **options)

    assert np.count_nonzero(read_mask(path) != LESION) <= 40  # of 104 pixels along the edge


def test_labels_after_jpeg(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.jpg", LESION.astype(np.uint8) + LOWER, quality=95)

    assert np.count_nonzero(read_mask(path) != LESION) <= 40


@pytest.mark.parametrize("colours", [[(60, 20, 10), (10, 60, 20)], [(128, 0, 0), (0, 128, 0)]])
def test_a_coloured_palette_numbers_its_labels(tmp_path: Path, colours: list) -> None:
    image = Image.fromarray(np.where(RIM, 255, LESION.astype(np.uint8) + LOWER).astype(np.uint8))
    image = image.convert("P")
    palette = [0] * 768
    palette[3:9] = [*colours[0], *colours[1]]
    palette[765:] = [224, 224, 192]
    image.putpalette(palette)
    image.save(tmp_path / "m.png")

    assert np.array_equal(read_mask(tmp_path / "m.png"), LESION)


@pytest.mark.parametrize(
    "palette",
    [[255, 255, 255, 0, 0, 0], [0, 200, 0, 0, 0, 0], [9, 9, 9, 0, 0, 0]],
    ids=["white", "green", "dark"],
)
def test_a_palette_that_does_not_begin_with_black_stands_for_its_colours(
    tmp_path: Path, palette: list
) -> None:
    image = Image.fromarray(np.where(LESION, 0, 1).astype(np.uint8)).convert("P")
    image.putpalette(palette)
    image.save(tmp_path / "m.png")

    assert np.array_equal(read_mask(tmp_path / "m.png"), LESION)


def test_a_grey_palette_stands_for_its_grey_values(tmp_path: Path) -> None:
    image = Image.fromarray(SOFT.astype(np.uint8)).quantize(12)
    image.save(tmp_path / "m.png")
    grey = np.asarray(image.convert("L")).astype(float)

    assert np.array_equal(read_mask(tmp_path / "m.png"), grey >= (grey.min() + grey.max()) / 2)


def test_a_palette_that_tells_no_index_from_another_is_no_palette(tmp_path: Path) -> None:
    image = Image.fromarray(LESION.astype(np.uint8) + LOWER).convert("P")
    image.putpalette([0] * 768)
    image.save(tmp_path / "m.png")

    assert np.array_equal(read_mask(tmp_path / "m.png"), LESION)


def test_transparent_indices_are_background(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(LESION, 1, 2).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "m.png", transparency=2)

    assert np.array_equal(read_mask(tmp_path / "m.png"), LESION)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_labels_in_nifti(tmp_path: Path, dtype: type) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = (LESION.astype(dtype) + LOWER).T
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "m.nii.gz")

    assert np.array_equal(read_mask(tmp_path / "m.nii.gz"), LESION)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LESION + np.uint8(1), "values 1, 2, none of them 0"),
        (np.full((4, 5), 7, np.uint8), "values 7, none of them 0"),
        (np.full((4, 5), 1, np.uint8), "values 1, none of them 0"),
        (SOFT.astype(np.uint8) // 2 + np.uint8(90), r"values 90, .*… 217, none of them 0"),
        ((LESION - LOWER * 2).astype(np.int32), "values -1, 0, 1, expected none below 0"),
        (
            np.where(LOWER, 255, LESION * 20).astype(np.uint8),
            "values 0, 20, 255, which are neither",
        ),
        (LESION * np.float32("nan"), "NaN"),
    ],
)
def test_what_is_no_mask_names_its_values(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = saved(tmp_path / "m.tif", values)

    with pytest.raises(ImageReadError, match=rf"m\.tif: the mask holds .*{message}") as caught:
        read_mask(path)

    assert caught.value.kind == "mask_values"


def test_specks_of_low_values_on_a_mask_of_0_and_255_are_no_labels_with_void() -> None:
    values = LESION * np.uint8(255)
    values[0, :3] = 1

    with pytest.raises(ValueError, match="0, 1, 255"):
        lesion_pixels(values)
