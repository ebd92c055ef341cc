from __future__ import annotations

import numpy as np
import pytest

from busi_monai.phantoms import Phantom, draw_phantom
from busi_monai.phantoms.defects import (
    burn_calipers,
    burn_text,
    near_copy,
    paint_colour,
)


@pytest.fixture(scope="module", params=[(64, 80), (360, 440)])
def phantom(request: pytest.FixtureRequest) -> Phantom:
    return draw_phantom("benign", np.random.default_rng(3), request.param)


def test_text_is_bright_and_low_in_the_image(phantom: Phantom) -> None:
    before = phantom.pixels.copy()
    marked = burn_text(phantom.pixels, np.random.default_rng(0))
    changed = marked != phantom.pixels
    assert np.array_equal(phantom.pixels, before)
    assert changed.sum() > 20
    assert marked[changed].max() > 200
    assert np.nonzero(changed)[0].min() > 0.6 * len(marked)


def test_calipers_mark_the_ends_of_the_lesion(phantom: Phantom) -> None:
    marked = burn_calipers(phantom.pixels, phantom.lesion)
    rows, columns = np.nonzero(phantom.lesion)
    for end in (columns.argmin(), columns.argmax(), rows.argmin(), rows.argmax()):
        assert marked[rows[end], columns[end]] == 255
    assert (marked != phantom.pixels).mean() < 0.1


def test_colour_lies_in_a_box_over_grey(phantom: Phantom) -> None:
    marked = paint_colour(phantom.pixels, np.random.default_rng(0)).astype(int)
    coloured = np.ptp(marked, axis=2) > 0
    assert 0.005 < coloured.mean() < 0.2
    assert np.array_equal(marked[~coloured][:, 0], phantom.pixels[~coloured])


def test_a_near_copy_moves_image_and_mask_alike(phantom: Phantom) -> None:
    for seed in range(8):
        copy, lesion = near_copy(phantom.pixels, phantom.lesion, np.random.default_rng(seed))
        assert copy.shape == lesion.shape
        assert copy.dtype == np.uint8
        assert lesion.mean() == pytest.approx(phantom.lesion.mean(), rel=0.15)
        centre = np.array([axis.mean() for axis in np.nonzero(lesion)]) / lesion.shape
        expected = np.array([axis.mean() for axis in np.nonzero(phantom.lesion)])
        assert np.allclose(centre, expected / phantom.lesion.shape, atol=0.03)
