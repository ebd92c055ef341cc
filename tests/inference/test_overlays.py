from __future__ import annotations

import numpy as np
import pytest

from busi_monai.inference import draw_outlines, draw_overlay
from busi_monai.plots.palette import PREDICTED_OUTLINE, TRUE_OUTLINE


def square(top: int, left: int) -> np.ndarray:
    mask = np.zeros((80, 120), dtype=np.uint8)
    mask[top : top + 20, left : left + 20] = 1
    return mask


def colours(drawn: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in drawn.reshape(-1, 3).tolist()}


def test_outline_runs_along_the_masks_edge_and_nowhere_else():
    drawn = draw_outlines(np.full((80, 120), 0.5), [(square(30, 50), (255, 0, 0))])
    red = (drawn == (255, 0, 0)).all(axis=2)
    assert red[30, 50:70].all() and red[49, 50:70].all() and red[30:50, 50].all()
    assert not red[32:48, 52:68].any()
    assert not red[:29].any() and not red[:, :49].any()


def test_overlay_keeps_the_image_and_adds_a_caption_below():
    pixels = np.random.default_rng(0).random((80, 120)).astype(np.float32)
    drawn = draw_overlay(pixels, np.zeros((80, 120)), predicted_class="normal", confidence=0.9)
    assert drawn.dtype == np.uint8 and drawn.shape[1:] == (120, 3) and drawn.shape[0] > 100
    assert np.array_equal(drawn[:80, :, 0], np.round(pixels * 255))
    assert drawn[80:].max() > 150


def test_truth_is_drawn_in_another_colour_and_makes_the_caption_longer():
    pixels = np.zeros((80, 120))
    alone = draw_overlay(pixels, square(5, 5), predicted_class="benign", confidence=0.5)
    both = draw_overlay(
        pixels,
        square(5, 5),
        predicted_class="benign",
        true_mask=square(40, 60),
        true_class="normal",
    )
    assert PREDICTED_OUTLINE in colours(alone[:80]) and TRUE_OUTLINE not in colours(alone)
    assert {PREDICTED_OUTLINE, TRUE_OUTLINE} <= colours(both[:80])
    assert len(both) > len(alone)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="same size"):
        draw_overlay(np.zeros((80, 120)), np.zeros((80, 121)))


@pytest.mark.parametrize("size", [(2, 2), (719, 1048)])
def test_any_image_size_can_be_drawn(size):
    assert draw_overlay(np.zeros(size), np.ones(size)).shape[1] == size[1]
