from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from busi_monai.transforms.acoustics import (
    AXIAL_PART,
    DEPTH_GAIN_POINTS,
    RandomBlurd,
    RandomDepthGaind,
    RandomShadowd,
    adjust_depth_gain,
    blur,
    gain_curve,
    shade_band,
)

Draw = Callable[..., np.ndarray]
SIZE = (40, 64)
GREY = torch.full((1, 100, 80), 0.4)
BAND = {
    "change": -0.5, "column": 0.25, "width": 0.2, "top": 0.3, "widening": 0.5, "softness": 0.05,
}  # fmt: skip


@pytest.mark.parametrize(("lateral", "axial"), [(1.5, 0.75), (0.6, 1.2)])
def test_blur_is_a_gaussian_of_two_widths(lateral: float, axial: float, textured: Draw) -> None:
    image = textured(SIZE)
    found = blur(torch.from_numpy(image)[None], lateral=lateral, axial=axial)[0].numpy()
    expected = gaussian_filter(image, (axial, lateral), mode="nearest", truncate=4)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_point_is_smeared_across_the_beams_more_than_along_the_depth() -> None:
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    blurred = RandomBlurd(1, (2.0, 2.0)).set_random_state(0)({"image": point})["image"][0]
    across, down = blurred.sum(0), blurred.sum(1)
    offsets = torch.arange(-10.0, 11.0)
    widths = [float((sums * offsets**2).sum().sqrt()) for sums in (across, down)]
    assert widths[0] == pytest.approx(2, abs=0.1)
    assert widths[1] == pytest.approx(2 * AXIAL_PART, abs=0.1)


def test_no_blur_at_a_tiny_width(textured: Draw) -> None:
    image = torch.from_numpy(textured(SIZE))[None]
    assert torch.allclose(blur(image, lateral=0.05, axial=0.05), image)


def test_no_change_of_the_band_changes_nothing() -> None:
    assert torch.equal(shade_band(GREY, **{**BAND, "change": 0.0}), GREY)


def test_a_shadow_lies_below_its_top_in_its_columns() -> None:
    relative = shade_band(GREY, **BAND)[0] / 0.4
    assert torch.all(relative[:30] == 1)  # above the top
    assert torch.allclose(relative[36:, 14:26], torch.tensor(0.5))  # the core
    assert torch.all(relative[:, :6] == 1) and torch.all(relative[:, 34:] == 1)
    assert torch.all(relative[30:].diff(dim=0) <= 1e-6)  # never brighter again further down
    assert torch.allclose(relative[:, :40], relative[:, :40].flip(1), atol=1e-6)  # about column 20


def test_a_band_widens_downwards() -> None:
    relative = shade_band(GREY, **BAND)[0] / 0.4
    widths = (relative < 0.75).sum(1)  # to where half of the change is reached
    assert widths[40] == pytest.approx(0.2 * 80 * (1 + 0.5 * 0.105 / 0.7), abs=2)
    assert widths[99] == pytest.approx(0.2 * 80 * 1.5, abs=2)


def test_a_bands_edges_are_soft() -> None:
    steps = shade_band(GREY, **{**BAND, "softness": 0.2})[0] / 0.4
    assert float(steps.diff(dim=0).abs().max()) < 0.05
    assert float(steps.diff(dim=1).abs().max()) < 0.06


def test_enhancement_brightens_and_is_clipped() -> None:
    brighter = shade_band(GREY, **{**BAND, "change": 0.5})
    assert torch.allclose(brighter[0, 50, 20], torch.tensor(0.6))
    assert float(shade_band(GREY, **{**BAND, "change": 3.0}).max()) == 1


@pytest.mark.parametrize("column", [0.0, 1.0])
def test_a_band_may_be_cut_by_the_edge(column: float) -> None:
    shaded = shade_band(GREY, **{**BAND, "column": column})
    edge, far = (0, -1) if column == 0 else (-1, 0)
    assert float(shaded[0, -1, edge]) == pytest.approx(0.2)
    assert float(shaded[0, -1, far]) == pytest.approx(0.4)


def test_no_deviation_is_no_gain(textured: Draw) -> None:
    image = torch.from_numpy(textured(SIZE))[None]
    assert torch.equal(adjust_depth_gain(image, [0.0] * 5), image.clamp(0, 1))


def test_gain_varies_along_the_depth_only() -> None:
    deviations = [-0.3, 0.2, 0.0, 0.3, -0.1]
    changed = adjust_depth_gain(GREY, deviations)[0] / 0.4 - 1
    assert torch.allclose(changed, changed[:, :1].expand_as(changed))
    np.testing.assert_allclose(changed[:, 0], gain_curve(100, deviations), atol=1e-6)


def test_a_gain_curve_goes_through_its_points_and_never_beyond() -> None:
    deviations = [-0.3, 0.2, 0.0, 0.3, -0.1]
    curve = gain_curve(401, deviations)
    np.testing.assert_allclose(curve[::100], deviations, atol=1e-6)
    for index, (one, other) in enumerate(itertools.pairwise(deviations)):
        between = curve[index * 100 : index * 100 + 101]
        assert between.min() >= min(one, other) - 1e-6
        assert between.max() <= max(one, other) + 1e-6
        assert np.abs(np.diff(between)).max() < 1.6 * abs(other - one) / 100  # no jump
    assert np.abs(np.diff(curve, 2)).max() < 1e-3  # and no kink


RANDOM = {
    "blur": lambda probability=1.0: RandomBlurd(probability, (0.3, 1.5)),
    "shadow": lambda probability=1.0: RandomShadowd(probability, 0.6),
    "depth_gain": lambda probability=1.0: RandomDepthGaind(probability, 0.3),
}


@pytest.mark.parametrize("name", RANDOM)
def test_only_the_image_changes_and_the_one_that_came_in_is_left_alone(
    name: str, item: dict[str, torch.Tensor]
) -> None:
    before = {key: value.clone() for key, value in item.items()}
    for seed in range(5):
        result = RANDOM[name]().set_random_state(seed)(item)
        assert not torch.equal(result["image"], item["image"])
        assert result["label"] is item["label"]
        assert result["image"].shape == item["image"].shape
        assert result["image"].dtype == torch.float32
    assert all(torch.equal(item[key], before[key]) for key in before)


@pytest.mark.parametrize("name", RANDOM)
def test_it_happens_as_often_as_asked(name: str, item: dict[str, torch.Tensor]) -> None:
    transform = RANDOM[name](0.3).set_random_state(0)
    happened = sum(transform(item)["image"] is not item["image"] for _ in range(300))
    assert 65 < happened < 115


def test_shadows_and_gains_stay_within_what_is_allowed() -> None:
    shadows = RandomShadowd(1, 0.6).set_random_state(0)
    gains = RandomDepthGaind(1, 0.3).set_random_state(0)
    shaded = torch.stack([shadows({"image": GREY})["image"] for _ in range(100)]) / 0.4 - 1
    gained = torch.stack([gains({"image": GREY})["image"] for _ in range(100)]) / 0.4 - 1
    for changes, limit in ((shaded, 0.6), (gained, 0.3)):
        assert -limit - 1e-5 <= float(changes.min()) < -0.8 * limit
        assert 0.8 * limit < float(changes.max()) <= limit + 1e-5
    assert len(gains.deviations) == DEPTH_GAIN_POINTS
    touched = (shaded.abs() > 1e-4).flatten(1).float().mean(1)
    assert float(touched.max()) < 0.4  # most of an image is left as it is
    darker = (shaded.flatten(1).mean(1) < 0).float().mean()
    assert 0.3 < float(darker) < 0.7


@pytest.mark.parametrize("name", RANDOM)
def test_black_stays_black(name: str) -> None:
    black = torch.zeros(1, *SIZE)
    assert not RANDOM[name]().set_random_state(0)({"image": black})["image"].any()
