from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from busi_monai.imaging.drawn_marks import Calipers, TextLine, draw_calipers, draw_text
from busi_monai.imaging.marks import inpaint_marks, marks_mask

Pixels = NDArray[np.float32]

# at native size, as scanners draw them: arms of 7 pixels
CALIPERS = Calipers((0.5, 0.5), (0.6, 0.4), angle=10, arm=7 / 300, stroke=1.5 / 300, grey=0.9)


def tissue(seed: int = 0, size: tuple[int, int] = (300, 400)) -> Pixels:
    """Speckle with bright layers of soft edges."""
    noise = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    speckle = cv2.GaussianBlur(noise, (0, 0), sigmaX=3, sigmaY=1.5)
    grey = 0.25 + 0.08 * speckle / speckle.std()
    for row in (60, 140, 220):
        grey += 0.4 * np.exp(-((np.arange(size[0]) - row) ** 2) / 18)[:, None]
    return np.clip(grey, 0, 1).astype(np.float32)


def drawn(pixels: Pixels, marked: Pixels) -> NDArray[np.bool_]:
    return np.abs(marked - pixels) > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_tissue_alone_has_no_marks(seed: int) -> None:
    assert not marks_mask(tissue(seed)).any()


@pytest.mark.parametrize("diagonal", [(False, False), (True, True), (False, True)])
def test_crosses_are_covered_and_little_else(diagonal: tuple[bool, bool]) -> None:
    pixels = tissue()
    marked = draw_calipers(pixels, CALIPERS._replace(diagonal=diagonal))
    mask, ink = marks_mask(marked), drawn(pixels, marked)
    assert (mask & ink).sum() >= 0.95 * ink.sum()
    reach = cv2.dilate(ink.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert (mask & ~reach).sum() <= 0.2 * mask.sum()  # one speckle taken for a faint cross


def test_numbers_and_dots_go_with_their_crosses() -> None:
    pixels = tissue()
    marked = draw_calipers(pixels, CALIPERS._replace(dotted=True, numbered=True))
    ink = drawn(pixels, marked)
    assert (marks_mask(marked) & ink).sum() >= 0.9 * ink.sum()


@pytest.mark.parametrize("grey", [0.6, 0.9])
def test_letters_that_touch_are_covered(grey: float) -> None:
    pixels = tissue()
    text = TextLine("MAMA DIREITA QSE", (0.3, 0.9), height=9 / 300, stroke=1.5 / 300, grey=grey)
    marked = draw_text(pixels, text)
    mask, ink = marks_mask(marked), drawn(pixels, marked)
    assert (mask & ink).sum() >= 0.9 * ink.sum()
    assert not mask[:240].any()


def test_inpainting_removes_marks_and_leaves_the_rest() -> None:
    pixels = tissue()
    marked = draw_calipers(pixels, CALIPERS)
    mask = marks_mask(marked)
    filled = inpaint_marks(marked, mask)
    assert filled.dtype == np.float32
    assert np.array_equal(filled[~mask], marked[~mask])
    ink = drawn(pixels, marked)
    assert np.abs(filled - pixels)[ink].mean() < 0.3 * np.abs(marked - pixels)[ink].mean()
    assert not marks_mask(filled).any()


def test_without_marks_nothing_is_filled() -> None:
    pixels = tissue()
    assert np.array_equal(inpaint_marks(pixels, np.zeros(pixels.shape, bool)), pixels)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (40, 5)])
def test_small_images_are_no_error(size: tuple[int, int]) -> None:
    assert marks_mask(np.full(size, 0.5, np.float32)).shape == size
