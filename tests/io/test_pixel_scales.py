"""Which scale each pixel of an image has, where regions overlap, differ or are no lengths."""

from __future__ import annotations

import numpy as np
import pytest

from busi_monai.imaging import lesion_size
from busi_monai.io.pixel_scales import NoScale, PixelScale, ScaleRegion

SIZE = (40, 60)
FINE, COARSE, TALL = (0.1, 0.1), (0.2, 0.2), (0.2, 0.1)
LEFT, RIGHT, INSET = (0, 0, 40, 30), (0, 30, 40, 60), (10, 5, 25, 25)


def size_of(scale: PixelScale, *boxes: tuple[int, int, int, int]):
    mask = np.zeros(SIZE, dtype=bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return lesion_size(mask, scale)


def regions(*given: ScaleRegion) -> PixelScale:
    return PixelScale(regions=given)


DUAL = regions(ScaleRegion(LEFT, FINE), ScaleRegion(RIGHT, COARSE))
NESTED = regions(ScaleRegion(INSET, COARSE), ScaleRegion((0, 0, *SIZE), FINE))


@pytest.mark.parametrize(
    ("scale", "box", "expected"),
    [
        (PixelScale(), (2, 2, 6, 5), None),
        (PixelScale(TALL), (2, 2, 6, 5), TALL),
        (DUAL, (2, 2, 6, 30), FINE),
        (DUAL, (2, 30, 6, 60), COARSE),
        (DUAL, (2, 29, 6, 31), "scale_differs"),
        (regions(ScaleRegion(LEFT, TALL)), (2, 2, 6, 30), TALL),
        (regions(ScaleRegion(LEFT, TALL)), (2, 2, 6, 31), "scale_outside"),
        (regions(ScaleRegion(LEFT, TALL)), (2, 40, 6, 50), "scale_outside"),
        (regions(ScaleRegion(LEFT, FINE), ScaleRegion(RIGHT, (0.10002, 0.1))), (2, 20, 6, 40),
         FINE),
        (regions(ScaleRegion(LEFT, FINE), ScaleRegion((0, 32, 40, 60), FINE)), (2, 20, 6, 40),
         "scale_outside"),
        (regions(ScaleRegion(LEFT, None), ScaleRegion(RIGHT, FINE)), (2, 2, 6, 5),
         "scale_not_lengths"),
        (regions(ScaleRegion(LEFT, None), ScaleRegion(RIGHT, FINE)), (2, 20, 6, 40),
         "scale_not_lengths"),
        (regions(ScaleRegion((-5, -5, 400, 600), FINE)), (0, 0, *SIZE), FINE),
        (regions(ScaleRegion((30, 30, 10, 10), FINE)), (15, 15, 20, 20), "scale_outside"),
        (NESTED, (12, 6, 20, 20), COARSE),
        (NESTED, (30, 6, 40, 20), FINE),
        (NESTED, (12, 6, 30, 20), "scale_differs"),
        # the larger one is drawn over the smaller one
        (regions(ScaleRegion(INSET, COARSE, on_top=False), ScaleRegion((0, 0, *SIZE), FINE)),
         (12, 6, 20, 20), FINE),
        # neither holds the other
        (regions(ScaleRegion((0, 0, 40, 35), FINE), ScaleRegion((0, 25, 40, 60), COARSE)),
         (2, 26, 6, 30), "scale_ambiguous"),
        (regions(ScaleRegion((0, 0, 40, 35), FINE), ScaleRegion((0, 25, 40, 60), COARSE)),
         (2, 2, 6, 24), FINE),
        (regions(ScaleRegion((0, 0, 40, 35), FINE, on_top=False),
                 ScaleRegion((0, 25, 40, 60), COARSE)), (2, 26, 6, 40), COARSE),
        (regions(ScaleRegion((0, 0, 40, 35), FINE), ScaleRegion((0, 25, 40, 60), FINE)),
         (2, 20, 6, 40), FINE),
        (regions(ScaleRegion(LEFT, FINE), ScaleRegion(LEFT, COARSE)), (2, 2, 6, 5),
         "scale_ambiguous"),
    ],
)  # fmt: skip
def test_a_lesion_has_the_scale_of_the_region_that_holds_it(
    scale: PixelScale, box: tuple[int, int, int, int], expected: object
) -> None:
    size = size_of(scale, box)
    rows, columns = box[2] - box[0], box[3] - box[1]

    assert size.diameters_px is not None
    if isinstance(expected, tuple):
        assert size.spacing_mm == size.mask_mm == expected
        area = rows * expected[0] * columns * expected[1]
        assert size.area_mm2 == pytest.approx(area)
        assert size.diameters_mm is not None
        long = np.hypot(rows * expected[0], columns * expected[1])
        assert size.diameters_mm[0] == pytest.approx(long, abs=1e-5)
        assert size.warnings == ()
    else:
        assert (size.spacing_mm, size.area_mm2, size.diameters_mm) == (None, None, None)
        assert [w.code for w in size.warnings] == ([expected] if expected else [])
        assert all("in pixels only" in w.message for w in size.warnings)


def test_each_region_of_a_lesion_is_measured_by_its_own_scale() -> None:
    size = size_of(DUAL, (2, 2, 12, 12), (2, 40, 7, 45))

    assert size.area_mm2 == pytest.approx(100 * 0.01 + 25 * 0.04)
    assert size.spacing_mm == FINE  # of the largest
    assert size.mask_mm is None
    assert size.warnings == ()


def test_a_region_without_scale_leaves_the_largest_its_axes() -> None:
    scale = regions(ScaleRegion(LEFT, FINE), ScaleRegion(RIGHT, None))

    size = size_of(scale, (2, 2, 12, 12), (2, 40, 7, 45))

    assert size.diameters_mm == pytest.approx((np.sqrt(2), np.sqrt(2)), abs=1e-5)
    assert size.area_mm2 is None
    assert [w.code for w in size.warnings] == ["scale_not_lengths"]


def test_a_stated_spacing_that_differs_from_the_region_is_told() -> None:
    for stated, codes in ((COARSE, ["pixel_spacing_differs"]), (FINE, []), (None, [])):
        size = size_of(PixelScale(stated, DUAL.regions), (2, 2, 6, 5))
        assert size.spacing_mm == FINE
        assert [w.code for w in size.warnings] == codes
    # where the regions say nothing, it is not fallen back on
    size = size_of(PixelScale(COARSE, (ScaleRegion(LEFT, FINE),)), (2, 40, 6, 45))
    assert size.spacing_mm is None


def test_an_empty_mask_has_the_only_scale_of_the_image() -> None:
    assert size_of(PixelScale(TALL)).spacing_mm == TALL
    assert size_of(PixelScale(TALL)).area_mm2 == 0
    assert size_of(DUAL).spacing_mm is None
    assert size_of(regions(ScaleRegion(LEFT, TALL), ScaleRegion(RIGHT, None))).spacing_mm == TALL


def test_it_survives_as_text() -> None:
    for scale in (PixelScale(), PixelScale(TALL), DUAL, regions(ScaleRegion(LEFT, None, False))):
        assert PixelScale.from_json(scale.to_json()) == scale


def test_the_map_tells_why_there_is_no_scale() -> None:
    scale = regions(ScaleRegion((0, 0, 2, 2), FINE), ScaleRegion((2, 0, 4, 2), None))

    drawn = scale.as_map((5, 3))

    assert drawn[:, 0].tolist() == [0, 0, NoScale.NOT_LENGTHS, NoScale.NOT_LENGTHS, NoScale.OUTSIDE]
