from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from busi_monai.imaging import Calipers, TextLine
from busi_monai.transforms.appearance import (
    AXIAL_PART,
    DEPTH_GAIN_POINTS,
    RandomBlurd,
    RandomDepthGaind,
    RandomGreyLevelsd,
    RandomMarksd,
    RandomShadowd,
    adjust_contrast,
    adjust_gamma,
    blur,
    gain_curve,
    plant_marks,
    sample_calipers,
    sample_text,
    shade_band,
    speckle_field,
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


def test_enhancement_brightens_and_is_clipped() -> None:
    brighter = shade_band(GREY, **{**BAND, "change": 0.5})
    assert torch.allclose(brighter[0, 50, 20], torch.tensor(0.6))
    assert float(shade_band(GREY, **{**BAND, "change": 3.0}).max()) == 1


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
    "marks": lambda probability=1.0: RandomMarksd(probability),
    "grey": lambda probability=1.0: RandomGreyLevelsd(probability, (0.7, 1.5), (0.8, 1.2)),
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
    assert len(gains.drawn["deviations"]) == DEPTH_GAIN_POINTS
    touched = (shaded.abs() > 1e-4).flatten(1).float().mean(1)
    assert float(touched.max()) < 0.4  # most of an image is left as it is
    darker = (shaded.flatten(1).mean(1) < 0).float().mean()
    assert 0.3 < float(darker) < 0.7


@pytest.mark.parametrize("name", ["blur", "shadow", "depth_gain", "grey"])
def test_black_stays_black(name: str) -> None:
    black = torch.zeros(1, *SIZE)
    assert not RANDOM[name]().set_random_state(0)({"image": black})["image"].any()


def test_gamma() -> None:
    image = torch.tensor([[[0.0, 0.25, 1.0]]])
    assert adjust_gamma(image, 1).tolist() == image.tolist()
    assert adjust_gamma(image, 0.5).tolist() == [[[0, 0.5, 1]]]
    assert adjust_gamma(torch.tensor([[[-0.5, 1.5]]]), 0.7).tolist() == [[[0, 1]]]


def test_contrast_keeps_the_mean_and_clips() -> None:
    image = torch.tensor([[[0.25, 0.75]]])
    assert adjust_contrast(image, 0).tolist() == [[[0.5, 0.5]]]
    assert adjust_contrast(image, 1.5).tolist() == [[[0.125, 0.875]]]
    assert adjust_contrast(image, 9).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("grain", [1, 2, 3])
def test_speckle_has_the_grain_asked_for(grain: int) -> None:
    field = speckle_field((120, 150), grain=grain, generator=torch.Generator().manual_seed(0))[0]
    assert field.shape == (120, 150)
    assert abs(float(field.mean())) < 0.05
    assert 0.55 < float(field.std()) < 1.05
    neighbours = float(
        torch.corrcoef(torch.stack([field[:, 1:].ravel(), field[:, :-1].ravel()]))[0, 1]
    )
    assert neighbours < 0.05 if grain == 1 else neighbours > 0.3 * (grain - 1)


DARK = torch.zeros(1, 192, 192)
CALIPERS = Calipers((0.5, 0.5), (0.5, 0.25), angle=0, arm=4 / 192, stroke=1 / 192, grey=0.8)
TEXT = TextLine("LT 12MHZ", (0.05, 0.9), height=8 / 192, stroke=1 / 192, grey=0.8)
ENDS = [(96, 48), (96, 144), (72, 96), (120, 96)]  # (row, column)


def planted(**changes: object) -> torch.Tensor:
    return plant_marks(DARK, calipers=CALIPERS._replace(**changes))[0]


def test_upright_crosses_stand_at_the_ends_of_both_axes() -> None:
    marked = planted()
    for row, column in ENDS:
        near = marked[row - 6 : row + 7, column - 6 : column + 7]
        assert 0.5 < float(near.max()) < 0.81
        rows, columns = near.sum(1), near.sum(0)
        assert abs(int(rows.argmax()) - 6) <= 1 and abs(int(columns.argmax()) - 6) <= 1
        assert 6 <= int((rows > 0.1).sum()) <= 11  # arms of 4, and half a stroke
        marked[row - 6 : row + 7, column - 6 : column + 7] = 0
    assert float(marked.max()) == 0


def test_dots_join_the_crosses() -> None:
    line = planted(dotted=True)[94:99, 56:137].amax(0)
    bright = (line > 0.4).float()
    assert 12 <= float(bright.diff().clamp_min(0).sum()) <= 30
    assert float((line < 0.1).float().mean()) > 0.3


def test_numbers_stand_beside_the_first_crosses() -> None:
    added = (planted(numbered=True) - planted()).clamp_min(0)
    assert float(added[80:96, 30:48].max()) > 0.3 and float(added[56:72, 78:96].max()) > 0.3
    assert float(added[:, 100:].max()) == 0


def test_text_stands_in_a_line_and_is_cut_at_the_edge() -> None:
    marked = plant_marks(DARK, text=TEXT)[0]
    rows = torch.nonzero(marked.amax(1) > 0.1)
    assert int(rows.min()) >= 162 and int(rows.max()) <= 175
    assert 5 <= int(rows.max() - rows.min()) <= 11
    columns = torch.nonzero(marked.amax(0) > 0.1)
    assert 7 <= int(columns.min()) <= 14 and int(columns.max()) > 40
    beyond = plant_marks(DARK, text=TEXT._replace(place=(0.9, 0.9)))[0]
    assert 0 < float(beyond.sum()) < float(marked.sum())


def test_marks_lie_over_the_image_and_leave_the_rest() -> None:
    grey = torch.full((1, 192, 192), 0.3)
    marked = plant_marks(grey, calipers=CALIPERS)
    assert torch.equal(grey, torch.full((1, 192, 192), 0.3))
    untouched = planted() == 0
    assert torch.equal(marked[0][untouched], grey[0][untouched])
    assert float(marked.min()) == pytest.approx(0.3) and float(marked.max()) < 0.81


def test_sampled_marks_are_of_all_kinds_and_places() -> None:
    transform = RandomMarksd(0.75).set_random_state(0)
    kinds = set()
    for _ in range(60):
        transform.randomize()
        drawn = transform.drawn or {"calipers": None, "text": None}
        kinds.add(tuple(mark is not None for mark in drawn.values()))
    assert kinds == {(False, False), (True, False), (False, True), (True, True)}
    state = np.random.RandomState(0)
    calipers = [sample_calipers(state) for _ in range(300)]
    assert np.ptp([c.centre for c in calipers], axis=0).min() > 0.6
    assert len({(c.diagonal, c.dotted, c.numbered) for c in calipers}) == 12
    assert all(0.6 <= c.grey <= 1 and 2 / 192 <= c.arm <= 4 / 192 for c in calipers)
    texts = [sample_text(state) for _ in range(100)]
    assert all(t.place[1] <= 0.15 or t.place[1] >= 0.67 for t in texts)
