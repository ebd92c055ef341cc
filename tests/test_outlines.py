from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from busi_monai.errors import ImageReadError
from busi_monai.outlines import Outline, decode_rle, polygon_mask, unpacked_runs

FILE = Path("a.json")
SQUARE = ((10.0, 5.0), (20.0, 5.0), (20.0, 9.0), (10.0, 9.0))


def test_a_polygon_covers_the_pixels_whose_middle_it_holds():
    mask = Outline(FILE, "1", (SQUARE,)).mask((30, 40))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 8, 10, 19)
    assert mask.sum() == 40


def test_a_slanted_polygon_has_its_area():
    corners = np.array([(3.2, 4.1), (30.7, 10.3), (14.4, 27.9)])
    (x, y), area = corners.T, polygon_mask(corners, (32, 40)).sum()
    true = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    assert area == pytest.approx(true, rel=0.02)


def test_polygons_of_one_outline_are_united_and_fractions_scaled():
    other = tuple((x + 15, y + 10) for x, y in SQUARE)
    both = Outline(FILE, "1", (SQUARE, other)).mask((30, 40))
    assert both.sum() == 80
    fractions = tuple((x / 40, y / 30) for x, y in SQUARE)
    relative = Outline(FILE, "1", (fractions,), relative=True).mask((30, 40))
    assert np.array_equal(relative, Outline(FILE, "1", (SQUARE,)).mask((30, 40)))


@pytest.mark.parametrize(
    ("outline", "beyond"),
    [
        (Outline(FILE, "1", (SQUARE,), size=(30, 40)), False),
        (Outline(FILE, "1", (SQUARE,), size=(8, 40)), False),  # by a pixel, as rounding does
        (Outline(FILE, "1", (SQUARE,), size=(7, 40)), True),
        (Outline(FILE, "1", (((-5.0, 1.0), *SQUARE),)), True),
        (Outline(FILE, "1", (((0.2, 1.2), (0.1, 0.1), (0.3, 0.1)),), relative=True), True),
    ],
)
def test_what_lies_beyond_the_image_is_noticed_and_cut_off(outline: Outline, beyond: bool):
    assert outline.reaches_beyond() == beyond
    size = outline.size or (30, 40)
    assert outline.mask(size).shape == size


def test_another_size_than_stated_is_refused():
    with pytest.raises(ImageReadError, match=r"a\.json: 1: drawn on 40×30 .* the image has 41×30"):
        Outline(FILE, "1", (SQUARE,), size=(30, 40)).mask((30, 41))


# packed by pycocotools 2.0.11
def test_packed_runs_are_those_of_pycocotools():
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:4, 2:5] = mask[0, 6] = True
    assert np.array_equal(decode_rle(unpacked_runs(";320004NN"), (5, 7)), mask)
    large = np.zeros((300, 400), dtype=bool)
    large[50:200, 100:300] = True
    packed = "R[m0f4f4" + 397 * "0" + "nWm0"
    assert np.array_equal(decode_rle(unpacked_runs(packed), (300, 400)), large)


@pytest.mark.parametrize("runs", [[4, 3], [4, -2, 4], []])
def test_runs_that_do_not_fill_the_image_are_refused(runs: list[int]):
    with pytest.raises(ImageReadError, match="expected 3×2"):
        decode_rle(runs, (2, 3))


def test_letters_that_are_none_of_cocos_are_refused():
    with pytest.raises(ValueError, match="none of COCO's letters"):
        unpacked_runs("12 3")
