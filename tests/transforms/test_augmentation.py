from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, NormalizeIntensity

from busi_monai.errors import InputError
from busi_monai.settings import InferenceSettings
from busi_monai.transforms import prediction_preprocessing, training_augmentation

Draw = Callable[..., np.ndarray]
SIZE = (40, 64)
OPERATING = InferenceSettings(image_size=SIZE)
NOTHING = {
    "flip_probability": 0.0,
    "affine_probability": 0.0,
    "grey_probability": 0.0,
    "speckle_probability": 0.0,
    "noise_probability": 0.0,
}
ON_REQUEST = (
    "crop_probability",
    "blur_probability",
    "shadow_probability",
    "depth_gain_probability",
    "marks_probability",
)
EVERYTHING = dict.fromkeys((*NOTHING, *ON_REQUEST), 1.0)


@pytest.mark.parametrize("normalisation", ["unit", "zscore"])
def test_with_all_probabilities_zero_nothing_changes(textured: Draw, normalisation: str) -> None:
    settings = InferenceSettings(image_size=SIZE, normalisation=normalisation)
    prepared = prediction_preprocessing(settings)({"image": textured((50, 70))})
    augmented = training_augmentation(settings, **NOTHING)(prepared)
    assert type(augmented["image"]) is torch.Tensor
    assert torch.allclose(augmented["image"], prepared["image"].as_tensor(), atol=1e-5)


def test_images_stay_in_range(item: dict[str, torch.Tensor]) -> None:
    augment = training_augmentation(
        InferenceSettings(image_size=SIZE), **EVERYTHING, speckle=2, noise=1
    ).set_random_state(0)
    for _ in range(20):
        result = augment(item)
        assert 0 <= float(result["image"].min()) <= float(result["image"].max()) <= 1
        assert set(result["label"].unique().tolist()) <= {0, 1}


def test_a_zscored_image_comes_out_zscored(item: dict[str, torch.Tensor]) -> None:
    settings = InferenceSettings(image_size=SIZE, normalisation="zscore")
    augment = training_augmentation(settings, **EVERYTHING).set_random_state(0)
    result = augment({**item, "image": NormalizeIntensity()(item["image"])})
    assert abs(float(result["image"].mean())) < 1e-5
    assert abs(float(result["image"].std(correction=0)) - 1) < 1e-4
    assert type(result["image"]) is torch.Tensor


def test_the_mask_moves_with_its_image(ellipse: Draw) -> None:
    lesion = torch.from_numpy(ellipse(SIZE, centre=(18, 36), radii=(7, 12)).astype(np.float32))[
        None
    ]
    only_moved = {**NOTHING, "flip_probability": 1, "affine_probability": 1, "crop_probability": 1}
    augment = training_augmentation(InferenceSettings(), **only_moved).set_random_state(3)
    for _ in range(10):
        result = augment({"image": lesion, "label": lesion})
        differing = ((result["image"] >= 0.5).float() - result["label"]).abs().sum()
        assert float(differing) <= 0.12 * float(result["label"].sum())


def test_a_missing_mask_stays_missing(item: dict[str, torch.Tensor]) -> None:
    augment = training_augmentation(InferenceSettings(), **EVERYTHING).set_random_state(0)
    missing = torch.full_like(item["label"], -1)
    assert torch.equal(augment({**item, "label": missing})["label"], missing)


def test_the_same_seed_gives_the_same_images(item: dict[str, torch.Tensor]) -> None:
    def run(seed: int) -> list[torch.Tensor]:
        augment = training_augmentation(InferenceSettings()).set_random_state(seed)
        return [augment(item)["image"] for _ in range(8)]

    first, again, other = run(5), run(5), run(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({image.numpy().tobytes() for image in first}) > 4


def test_the_item_that_came_in_is_left_alone(item: dict[str, torch.Tensor]) -> None:
    before = {key: value.clone() for key, value in item.items()}
    training_augmentation(InferenceSettings(), **EVERYTHING).set_random_state(0)(item)
    assert all(torch.equal(item[key], before[key]) for key in before)


def test_half_of_the_images_are_mirrored_and_none_upside_down() -> None:
    corner = torch.zeros(1, 8, 8)
    corner[0, 0, 0] = 1
    augment = training_augmentation(InferenceSettings(), **{**NOTHING, "flip_probability": 0.5})
    augment.set_random_state(0)
    results = [augment({"image": corner})["image"] for _ in range(200)]
    assert all(float(result[0, 0].sum()) == 1 for result in results)
    assert 70 < sum(float(result[0, 0, -1]) for result in results) < 130


def test_chained_flat_the_preprocessing_is_cached(textured: Draw) -> None:
    settings = InferenceSettings(image_size=SIZE)
    prepare = prediction_preprocessing(settings, with_label=True)
    chain = Compose([prepare, training_augmentation(settings)]).flatten()
    image = textured((50, 70))
    dataset = CacheDataset([{"image": image, "label": image > 0.5}], chain, progress=False)
    cached = dataset._cache[0]
    assert cached["image"].shape == (1, *SIZE)
    assert "native_label" not in cached
    assert not torch.equal(dataset[0]["image"], dataset[0]["image"])


def test_augmentation_can_be_sent_to_a_worker(item: dict[str, torch.Tensor]) -> None:
    augment = training_augmentation(InferenceSettings()).set_random_state(0)
    copy = pickle.loads(pickle.dumps(augment))
    assert torch.equal(copy(item)["image"], augment(item)["image"])


def test_what_is_off_by_default_is_not_even_in_the_chain() -> None:
    def names(**options: float) -> list[str]:
        return [
            type(step).__name__ for step in training_augmentation(OPERATING, **options).transforms
        ]

    plain = ["TrainingTensorsd", "RandomGeometryd", "RandomGreyLevelsd", "RandomNoised"]
    assert names() == plain
    assert names(**dict.fromkeys(ON_REQUEST, 0.0)) == plain
    every = ["RandomBlurd", "RandomShadowd", "RandomDepthGaind", "RandomMarksd"]
    assert names(**dict.fromkeys(ON_REQUEST, 0.5)) == [*plain[:2], *every, *plain[2:]]
    assert names(shadow_probability=0.5) == [*plain[:2], "RandomShadowd", *plain[2:]]


def test_each_option_reaches_its_step(item: dict[str, torch.Tensor]) -> None:
    changed = {}
    for name in ON_REQUEST:
        augment = training_augmentation(OPERATING, **NOTHING, **{name: 1.0}).set_random_state(0)
        changed[name] = augment(item)
        assert not torch.equal(changed[name]["image"], item["image"])
    moved = {name for name, new in changed.items() if not torch.equal(new["label"], item["label"])}
    assert moved == {"crop_probability"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flip_probability", 1.5),
        ("affine_probability", -0.1),
        ("grey_probability", 2),
        ("speckle_probability", -1),
        ("noise_probability", 7),
        ("crop_probability", 1.2),
        ("blur_probability", -0.2),
        ("shadow_probability", 3),
        ("depth_gain_probability", -1),
        ("marks_probability", 1.1),
        ("shadow", 1.5),
        ("depth_gain", -0.1),
        ("blur_sigma", (0, 1)),
        ("crop_scale", (0.5, 1.5)),
        ("crop_scale", 0.6),
        ("scale_range", (0, 1)),
        ("gamma", (1.5, 0.7)),
        ("contrast", (1,)),
    ],
)
def test_a_wrong_option_is_named_with_its_value(option: str, value: object) -> None:
    with pytest.raises(InputError, match=option):
        training_augmentation(InferenceSettings(), **{option: value})
