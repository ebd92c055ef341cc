from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, NormalizeIntensity

from busi_monai.errors import InputError
from busi_monai.operating import OperatingPoint
from busi_monai.transforms import prediction_preprocessing, training_augmentation
from busi_monai.transforms.augmentation import (
    add_gaussian_noise,
    add_speckle,
    adjust_contrast,
    adjust_gamma,
    affine_matrix,
    mirror,
    speckle_field,
    warp,
)

Draw = Callable[..., np.ndarray]
SIZE = (40, 64)
NOTHING = {
    "flip_probability": 0.0,
    "affine_probability": 0.0,
    "grey_probability": 0.0,
    "speckle_probability": 0.0,
    "noise_probability": 0.0,
}
EVERYTHING = dict.fromkeys(NOTHING, 1.0)


@pytest.fixture
def item(textured: Draw, ellipse: Draw) -> dict[str, torch.Tensor]:
    lesion = ellipse(SIZE, centre=(15, 40), radii=(8, 14))
    return {
        "image": torch.from_numpy(textured(SIZE))[None],
        "label": torch.from_numpy(lesion.astype(np.float32))[None],
    }


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


def test_a_warped_mask_holds_only_zero_and_one(item: dict[str, torch.Tensor]) -> None:
    matrix = affine_matrix(SIZE, rotation_degrees=17, scale=1.1, shift=(0.05, -0.03))
    assert set(warp(item["label"], matrix, nearest=True).unique().tolist()) == {0, 1}


def test_mirror_swaps_left_and_right_only() -> None:
    picture = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert mirror(picture).tolist() == [[[2, 1], [4, 3]]]


def test_gamma() -> None:
    picture = torch.tensor([[[0.0, 0.25, 1.0]]])
    assert adjust_gamma(picture, 1).tolist() == picture.tolist()
    assert adjust_gamma(picture, 0.5).tolist() == [[[0, 0.5, 1]]]
    assert adjust_gamma(torch.tensor([[[-0.5, 1.5]]]), 0.7).tolist() == [[[0, 1]]]


def test_contrast_keeps_the_mean_and_clips() -> None:
    picture = torch.tensor([[[0.25, 0.75]]])
    assert adjust_contrast(picture, 0).tolist() == [[[0.5, 0.5]]]
    assert adjust_contrast(picture, 1.5).tolist() == [[[0.125, 0.875]]]
    assert adjust_contrast(picture, 9).tolist() == [[[0, 1]]]


def test_no_noise() -> None:
    picture = torch.rand(1, 5, 5)
    assert torch.equal(add_gaussian_noise(picture, torch.zeros(1, 5, 5)), picture)
    assert torch.equal(add_speckle(picture, torch.zeros(1, 5, 5)), picture)


def test_constant_noise() -> None:
    picture = torch.tensor([[[0.0, 0.5, 1.0]]])
    field = torch.full((1, 1, 3), 0.5)
    assert add_gaussian_noise(picture, field).tolist() == [[[0.5, 1, 1]]]
    assert add_speckle(picture, field).tolist() == [[[0, 0.75, 1]]]


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


@pytest.mark.parametrize("normalisation", ["unit", "zscore"])
def test_with_all_probabilities_zero_nothing_changes(textured: Draw, normalisation: str) -> None:
    operating = OperatingPoint(image_size=SIZE, normalisation=normalisation)
    prepared = prediction_preprocessing(operating)({"image": textured((50, 70))})
    augmented = training_augmentation(operating, **NOTHING)(prepared)
    assert type(augmented["image"]) is torch.Tensor
    assert torch.allclose(augmented["image"], prepared["image"].as_tensor(), atol=1e-5)


def test_images_stay_in_range(item: dict[str, torch.Tensor]) -> None:
    augment = training_augmentation(
        OperatingPoint(image_size=SIZE), **EVERYTHING, speckle=2, noise=1
    ).set_random_state(0)
    for _ in range(20):
        result = augment(item)
        assert 0 <= float(result["image"].min()) <= float(result["image"].max()) <= 1
        assert set(result["label"].unique().tolist()) <= {0, 1}


def test_a_zscored_image_comes_out_zscored(item: dict[str, torch.Tensor]) -> None:
    operating = OperatingPoint(image_size=SIZE, normalisation="zscore")
    augment = training_augmentation(operating, **EVERYTHING).set_random_state(0)
    result = augment({**item, "image": NormalizeIntensity()(item["image"])})
    assert abs(float(result["image"].mean())) < 1e-5
    assert abs(float(result["image"].std(correction=0)) - 1) < 1e-4
    assert type(result["image"]) is torch.Tensor


def test_the_mask_moves_with_its_image(ellipse: Draw) -> None:
    lesion = torch.from_numpy(ellipse(SIZE, centre=(18, 36), radii=(7, 12)).astype(np.float32))[
        None
    ]
    only_moved = {**EVERYTHING, "grey_probability": 0, "speckle_probability": 0}
    only_moved["noise_probability"] = 0
    augment = training_augmentation(OperatingPoint(), **only_moved).set_random_state(3)
    for _ in range(10):
        result = augment({"image": lesion, "label": lesion})
        differing = ((result["image"] >= 0.5).float() - result["label"]).abs().sum()
        assert float(differing) <= 0.12 * float(result["label"].sum())


def test_a_missing_mask_stays_missing(item: dict[str, torch.Tensor]) -> None:
    augment = training_augmentation(OperatingPoint(), **EVERYTHING).set_random_state(0)
    missing = torch.full_like(item["label"], -1)
    assert torch.equal(augment({**item, "label": missing})["label"], missing)


def test_an_item_without_mask_is_augmented(item: dict[str, torch.Tensor]) -> None:
    augment = training_augmentation(OperatingPoint(), **EVERYTHING).set_random_state(0)
    assert set(augment({"image": item["image"], "id": "a"})) == {"image", "id"}


def test_the_same_seed_gives_the_same_pictures(item: dict[str, torch.Tensor]) -> None:
    def run(seed: int) -> list[torch.Tensor]:
        augment = training_augmentation(OperatingPoint()).set_random_state(seed)
        return [augment(item)["image"] for _ in range(8)]

    first, again, other = run(5), run(5), run(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({picture.numpy().tobytes() for picture in first}) > 4


def test_the_item_that_came_in_is_left_alone(item: dict[str, torch.Tensor]) -> None:
    before = {key: value.clone() for key, value in item.items()}
    training_augmentation(OperatingPoint(), **EVERYTHING).set_random_state(0)(item)
    assert all(torch.equal(item[key], before[key]) for key in before)


def test_half_of_the_pictures_are_mirrored_and_none_upside_down() -> None:
    corner = torch.zeros(1, 8, 8)
    corner[0, 0, 0] = 1
    augment = training_augmentation(OperatingPoint(), **{**NOTHING, "flip_probability": 0.5})
    augment.set_random_state(0)
    results = [augment({"image": corner})["image"] for _ in range(200)]
    assert all(float(result[0, 0].sum()) == 1 for result in results)
    assert 70 < sum(float(result[0, 0, -1]) for result in results) < 130


def test_chained_flat_the_preprocessing_is_cached(textured: Draw) -> None:
    operating = OperatingPoint(image_size=SIZE)
    prepare = prediction_preprocessing(operating, with_label=True)
    chain = Compose([prepare, training_augmentation(operating)]).flatten()
    picture = textured((50, 70))
    dataset = CacheDataset([{"image": picture, "label": picture > 0.5}], chain, progress=False)
    cached = dataset._cache[0]
    assert cached["image"].shape == (1, *SIZE)
    assert "native_label" not in cached
    assert not torch.equal(dataset[0]["image"], dataset[0]["image"])


def test_augmentation_can_be_sent_to_a_worker(item: dict[str, torch.Tensor]) -> None:
    augment = training_augmentation(OperatingPoint()).set_random_state(0)
    copy = pickle.loads(pickle.dumps(augment))
    assert torch.equal(copy(item)["image"], augment(item)["image"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flip_probability", 1.5),
        ("affine_probability", -0.1),
        ("grey_probability", 2),
        ("speckle_probability", -1),
        ("noise_probability", 7),
        ("scale_range", (0, 1)),
        ("gamma", (1.5, 0.7)),
        ("contrast", (1,)),
    ],
)
def test_a_wrong_option_is_named_with_its_value(option: str, value: object) -> None:
    with pytest.raises(InputError, match=option):
        training_augmentation(OperatingPoint(), **{option: value})
