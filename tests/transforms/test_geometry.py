from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from busi_monai.settings import InferenceSettings
from busi_monai.transforms import training_augmentation
from busi_monai.transforms.geometry import (
    CROP_DRAWS,
    LESION_IN_VIEW,
    RandomGeometryd,
    affine_matrix,
    chain,
    crop_matrix,
    part_in_view,
    warp,
)

Draw = Callable[..., np.ndarray]
SIZE = (40, 64)


def _identity(**changes: object) -> np.ndarray:
    return affine_matrix(SIZE, **{"rotation_degrees": 0, "scale": 1, "shift": (0, 0), **changes})


def test_warp_without_movement_changes_nothing(item: dict[str, torch.Tensor]) -> None:
    assert torch.equal(warp(item["image"], _identity()), item["image"])
    assert torch.equal(warp(item["label"], _identity(), nearest=True), item["label"])


def test_shift_moves_down_and_right_and_lets_black_in(item: dict[str, torch.Tensor]) -> None:
    moved = warp(item["image"], _identity(shift=(4 / SIZE[0], 8 / SIZE[1])))
    assert torch.allclose(moved[:, 4:, 8:], item["image"][:, :-4, :-8], atol=1e-6)
    assert float(moved[:, :4].max()) == float(moved[:, :, :8].max()) == 0


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_is_anticlockwise_about_the_centre(quarters: int) -> None:
    square = torch.rand((1, 21, 21), generator=torch.Generator().manual_seed(0))
    matrix = affine_matrix((21, 21), rotation_degrees=90 * quarters, scale=1, shift=(0, 0))
    expected = torch.rot90(square, quarters, (1, 2))
    assert torch.allclose(warp(square, matrix), expected, atol=1e-5)


def test_a_scale_above_one_enlarges_about_the_centre(item: dict[str, torch.Tensor]) -> None:
    centred = torch.zeros(1, *SIZE)
    centred[:, 16:24, 28:36] = 1
    enlarged = warp(centred, _identity(scale=2.0))
    assert float(enlarged.sum()) == pytest.approx(4 * 64, rel=0.02)
    assert torch.allclose(enlarged, enlarged.flip(1, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "columns"), [((0, 20), (0, 32)), ((20, 40), (32, 64)), ((5, 35), (16, 32))]
)
def test_a_crop_is_the_part_resized(
    rows: tuple[int, int], columns: tuple[int, int], item: dict[str, torch.Tensor]
) -> None:
    sides = zip((rows, columns), SIZE, strict=True)
    lengths = [(high - low, low, side) for (low, high), side in sides]
    matrix = crop_matrix(
        SIZE,
        part=[length / side for length, _, side in lengths],
        place=[low / (side - length) for length, low, side in lengths],
    )
    part = item["image"][None, :, slice(*rows), slice(*columns)]
    expected = functional.interpolate(part, size=SIZE, mode="bilinear", align_corners=False)[0]
    inner = (..., slice(2, -2), slice(2, -2))  # at the rim, the crop's neighbours count too
    assert torch.allclose(warp(item["image"], matrix)[inner], expected[inner], atol=0.02)


def test_a_chain_is_one_warp_after_the_other() -> None:
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(64.0), indexing="ij")
    smooth = (0.3 + 0.3 * torch.sin(rows / 9) * torch.cos(columns / 7))[None]
    turn = affine_matrix(SIZE, rotation_degrees=5, scale=1.3, shift=(0.02, -0.01))
    crop = crop_matrix(SIZE, part=(0.7, 0.9), place=(0.5, 0.5))
    twice = warp(warp(smooth, crop), turn)
    assert torch.allclose(warp(smooth, chain(turn, crop)), twice, atol=0.02)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("part", [0.5, 0.75])
def test_the_part_in_view_is_counted_in_pixels(part: float, place: float) -> None:
    mask = (torch.rand((1, 32, 48), generator=torch.Generator().manual_seed(0)) > 0.7).float()
    low = round((1 - part) * 48 * place)
    expected = mask[..., low : low + round(part * 48)].sum() / mask.sum()
    found = part_in_view(mask, crop_matrix((32, 48), part=(1, part), place=(0.4, place)))
    assert found == pytest.approx(float(expected))


def cropping(crop_scale: tuple[float, float] = (0.4, 0.6), **options: float) -> RandomGeometryd:
    quiet = {"flip_probability": 0.0, "affine_probability": 0.0, **options}
    geometry = RandomGeometryd(
        **quiet,
        rotation_degrees=12,
        scale_range=(0.85, 1.2),
        translate=0.08,
        crop_probability=1,
        crop_scale=crop_scale,
    )
    return geometry.set_random_state(0)


def test_cropped_images_show_parts_of_their_own_aspect() -> None:
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(64.0), indexing="ij")
    geometry, empty = cropping((0.5, 0.9)), torch.zeros(1, *SIZE)
    shown = []
    for _ in range(40):
        down, across = (
            geometry({"image": axis[None], "label": empty})["image"] for axis in (rows, columns)
        )
        shown.append((float(down.diff(dim=1).median()), float(across.diff(dim=2).median())))
    parts = np.array(shown)
    assert ((parts > 0.49) & (parts < 0.91)).all()
    assert np.ptp(parts, axis=0).min() > 0.25
    assert abs(np.corrcoef(parts.T)[0, 1]) < 0.5


def test_a_crop_leaves_at_least_half_of_the_lesion(ellipse: Draw) -> None:
    lesion = torch.from_numpy(ellipse(SIZE, (10, 12), (5, 7)).astype(np.float32))[None]
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(64.0), indexing="ij")
    geometry = cropping()
    first_draws, kept = [], []
    for _ in range(60):
        result = geometry({"image": (rows + 100 * columns)[None], "label": lesion})
        # how many input pixels an output pixel takes, read off the image
        taken = float(result["image"].diff(dim=1).median() * result["image"].diff(dim=2).median())
        kept.append(float(result["label"].sum() / lesion.sum()) * taken / 100)
        first_draws.append(part_in_view(lesion, geometry.crops[0]))
    assert min(first_draws) < LESION_IN_VIEW - 0.2
    assert LESION_IN_VIEW - 0.03 < min(kept) < 0.7  # lesions are cut, within the limit


def test_a_crop_that_would_lose_the_lesion_every_time_is_left_out() -> None:
    corners = torch.zeros(1, *SIZE)
    corners[0, [0, 0, -1, -1], [0, -1, 0, -1]] = 1
    geometry = cropping()
    for _ in range(10):
        result = geometry({"image": corners, "label": corners})
        assert len(geometry.crops) == CROP_DRAWS
        assert torch.equal(result["image"], corners)
        assert torch.equal(result["label"], corners)


def test_normals_may_be_cropped_anywhere_and_unknown_masks_not_at_all(
    item: dict[str, torch.Tensor],
) -> None:
    normal = cropping()({**item, "label": torch.zeros(1, *SIZE)})
    assert not torch.equal(normal["image"], item["image"])
    missing = torch.full((1, *SIZE), -1.0)
    for unknown in ({**item, "label": missing}, {"image": item["image"]}):
        assert torch.equal(cropping()(unknown)["image"], item["image"])


def test_without_crops_the_draws_are_those_of_before(item: dict[str, torch.Tensor]) -> None:
    def images(**options: object) -> list[torch.Tensor]:
        augment = training_augmentation(InferenceSettings(), **options).set_random_state(4)
        return [augment(item)["image"] for _ in range(4)]

    plain, other = images(), images(crop_scale=(0.1, 0.2))
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
