from __future__ import annotations

import cv2
import numpy as np
import pytest

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.phantoms import Phantom, draw_phantom
from busi_monai.phantoms.drawing import random_size
from busi_monai.phantoms.speckle import Scanner, scan

SIZE = (200, 240)


def draw(class_name: str, seed: int, size: tuple[int, int] = SIZE) -> Phantom:
    return draw_phantom(class_name, np.random.default_rng(seed), size)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("size", [(32, 32), (33, 97), (121, 64), (250, 201)])
def test_size_kind_and_lesion(class_name: str, size: tuple[int, int]) -> None:
    phantom = draw(class_name, 0, size)
    assert phantom.pixels.shape == phantom.lesion.shape == size
    assert phantom.pixels.dtype == np.uint8
    assert phantom.lesion.dtype == bool
    assert phantom.lesion.any() == (class_name != "normal")
    assert phantom.class_name == class_name


def test_the_same_seed_draws_the_same_image_and_another_does_not() -> None:
    first, again, other = draw("malignant", 5), draw("malignant", 5), draw("malignant", 6)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.lesion, again.lesion)
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_number_of_threads_changes_nothing() -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        single = draw("benign", 1, (420, 500))
        cv2.setNumThreads(4)
        many = draw("benign", 1, (420, 500))
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(single.pixels, many.pixels)


def box_ratio(mask: np.ndarray) -> float:
    """Width over height of the lesion, by its second moments."""
    rows, columns = np.nonzero(mask)
    return float(columns.std() / rows.std())


def roughness(mask: np.ndarray) -> float:
    """Perimeter squared over area, 1 for a disk."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    longest = max(outlines, key=len)
    return float(cv2.arcLength(longest, True) ** 2 / (4 * np.pi * cv2.contourArea(longest)))


def behind(phantom: Phantom) -> float:
    """Mean grey below the lesion less that at the same depth beside it."""
    rows, columns = np.nonzero(phantom.lesion)
    depth = slice(rows.max() + 2, rows.max() + 2 + phantom.lesion.shape[0] // 10)
    middle = slice(int(np.percentile(columns, 25)), int(np.percentile(columns, 75)))
    beside = np.ones(phantom.lesion.shape[1], dtype=bool)
    beside[columns.min() - 8 : columns.max() + 8] = False
    band = phantom.pixels[depth].astype(float)
    return float(band[:, middle].mean() - band[:, beside].mean())


@pytest.fixture(scope="module")
def lesions() -> dict[str, list[Phantom]]:
    return {name: [draw(name, seed) for seed in range(24)] for name in ("benign", "malignant")}


def test_lesions_are_darker_than_what_surrounds_them(lesions: dict[str, list[Phantom]]) -> None:
    for phantoms in lesions.values():
        for phantom in phantoms:
            ring = cv2.dilate(phantom.lesion.astype(np.uint8), np.ones((15, 15))) > 0
            ring &= ~phantom.lesion
            pixels = phantom.pixels.astype(float)
            assert pixels[phantom.lesion].mean() < pixels[ring].mean()


def test_benign_lesions_are_wider_than_tall_and_malignant_ones_taller(
    lesions: dict[str, list[Phantom]],
) -> None:
    assert np.median([box_ratio(p.lesion) for p in lesions["benign"]]) > 1.3
    assert np.median([box_ratio(p.lesion) for p in lesions["malignant"]]) < 1


def test_benign_margins_are_smooth_and_malignant_ones_rough(
    lesions: dict[str, list[Phantom]],
) -> None:
    assert max(roughness(p.lesion) for p in lesions["benign"]) < np.median(
        [roughness(p.lesion) for p in lesions["malignant"]]
    )


def test_enhancement_behind_benign_and_shadow_behind_malignant(
    lesions: dict[str, list[Phantom]],
) -> None:
    benign, malignant = ([behind(p) for p in lesions[name]] for name in ("benign", "malignant"))
    assert np.nanmedian(benign) > 3
    assert np.nanmedian(malignant) < -8


def test_even_tissue_gives_the_statistics_of_speckle() -> None:
    scanner = Scanner(
        axial_px=1, lateral_px=1.5, focus=0.5, looks=1, dynamic_range_db=60, gain_db=0, noise_db=-80
    )
    echo = np.full((300, 300), -14, dtype=np.float32)
    pixels = scan(np.random.default_rng(0), echo, np.zeros_like(echo), scanner, echo.shape)
    # at the focus one look has exponentially distributed power: 5.57 dB of deviation in its log
    shown = pixels[120:180].astype(float) / 255
    level_db = (shown ** (1 / 1.35) - 0.8) * 60
    assert level_db.std() == pytest.approx(5.57, rel=0.15)


def test_a_side_that_is_too_short_is_refused() -> None:
    with pytest.raises(InputError, match="at least 32 px, got 20x64"):
        draw("benign", 0, (20, 64))


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(InputError, match="unknown class 'cyst'"):
        draw("cyst", 0)


def test_sizes_vary_as_in_busi() -> None:
    sizes = [random_size(np.random.default_rng(seed)) for seed in range(50)]
    assert len(set(sizes)) > 40
    assert all(360 <= height <= 560 and height <= width <= 1.4 * height for height, width in sizes)
    default = draw_phantom("normal", np.random.default_rng(3))
    assert default.pixels.shape == sizes[3]
