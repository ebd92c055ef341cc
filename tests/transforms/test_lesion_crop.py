"""Crops around known lesions: where they lie, what stays native, how they vary in training."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from busi_monai.errors import InputError
from busi_monai.settings import InferenceSettings, LesionCrop
from busi_monai.training import training_transforms
from busi_monai.transforms import (
    CropToLesiond,
    RandomCropToLesiond,
    prediction_postprocessing,
    prediction_preprocessing,
    training_augmentation,
)

CROP = InferenceSettings(image_size=(32, 48), lesion_crop=LesionCrop(margin=0.5))
LEFT, TOP, WIDTH, HEIGHT = 60, 20, 20, 10


@pytest.fixture
def pixels(textured) -> np.ndarray:
    return textured((70, 110))


@pytest.fixture
def mask() -> np.ndarray:
    drawn = np.zeros((70, 110), dtype=np.uint8)
    drawn[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = 1
    return drawn


def test_the_network_sees_the_lesions_box_with_its_margin(pixels, mask) -> None:
    item = prediction_preprocessing(CROP, with_label=True)({"image": pixels, "label": mask})
    cut = prediction_preprocessing(InferenceSettings(image_size=(32, 48)))(
        {"image": pixels[15:35, 50:90]}
    )
    torch.testing.assert_close(item["image"].as_tensor(), cut["image"].as_tensor())
    assert item["native_label"].shape == (1, 70, 110)
    assert item["image"].meta["spatial_shape"].tolist() == [70, 110]
    assert float(item["label"].mean()) == pytest.approx(0.25, abs=0.02)


def test_a_box_at_the_border_is_cut_off_there(pixels) -> None:
    mask = np.zeros((70, 110), dtype=np.uint8)
    mask[60:, :20] = 1
    cropped = CropToLesiond(("image",), margin=0.5)(
        {"image": torch.from_numpy(pixels)[None], "label": torch.from_numpy(mask)[None]}
    )
    np.testing.assert_array_equal(cropped["image"][0], pixels[55:, :30])


@pytest.mark.parametrize("label", [np.zeros((70, 110), np.uint8), None])
def test_without_a_lesion_the_whole_image_stays(label, pixels, caplog) -> None:
    steps = prediction_preprocessing(CROP, with_label=True)
    plain = prediction_preprocessing(InferenceSettings(image_size=(32, 48)))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            item = steps({"image": pixels, "label": label})
    torch.testing.assert_close(
        item["image"].as_tensor(), plain({"image": pixels})["image"].as_tensor()
    )
    warnings = [record.message for record in caplog.records if "without a mask" in record.message]
    assert len(warnings) == (1 if label is None else 0)


def test_mask_logits_of_a_crop_go_back_to_their_place(pixels, mask) -> None:
    steps = prediction_preprocessing(CROP, with_label=True)
    item = steps({"image": pixels, "label": mask})
    assert isinstance(item["image"], MetaTensor)
    item["seg"] = (item["label"] - 0.5) * 40
    item["cls"] = torch.zeros(3)
    found = prediction_postprocessing(CROP, steps)(item)
    np.testing.assert_array_equal(found["pred"], mask)
    assert float(found["pred_seg"][0, 0, 0]) == 0


def draw(crop: RandomCropToLesiond, mask: np.ndarray, seed: int) -> np.ndarray:
    """Return the (row, column) numbers of a random crop."""
    places = np.stack(np.mgrid[:70, :110]).astype(np.float32)
    crop.set_random_state(seed=seed)
    return crop({"image": torch.from_numpy(places), "label": torch.from_numpy(mask)[None]})[
        "image"
    ].numpy()


def test_no_draw_goes_beyond_the_widest_margin(mask) -> None:
    crop = RandomCropToLesiond(("image",), margin=0.25, jitter=0.2)
    reach = crop.widest_margin
    assert reach == pytest.approx(0.2 + 0.25 * 1.4)
    for seed in range(100):
        rows, columns = draw(crop, mask, seed)
        assert rows.min() >= TOP - reach * HEIGHT - 0.5
        assert rows.max() <= TOP + HEIGHT - 1 + reach * HEIGHT + 0.5
        assert columns.min() >= LEFT - reach * WIDTH - 0.5
        assert columns.max() <= LEFT + WIDTH - 1 + reach * WIDTH + 0.5
        # with this margin, a move by a fifth keeps the lesion in sight
        assert rows.min() <= TOP + 1 and columns.max() >= LEFT + WIDTH - 2


def test_images_without_lesion_are_cropped_half_of_the_time() -> None:
    crop, empty = RandomCropToLesiond(("image",)), np.zeros((70, 110), np.uint8)
    whole = [draw(crop, empty, seed).shape[1:] == (70, 110) for seed in range(200)]
    assert 70 < sum(whole) < 130


@pytest.mark.parametrize("cached", [0, 1])
def test_training_crops_before_it_resizes(cached: int, pixels, mask) -> None:
    kinds = ("flip", "affine", "grey", "speckle", "noise")
    quiet = {f"{kind}_probability": 0.0 for kind in kinds}
    settings = InferenceSettings(
        image_size=(32, 48), lesion_crop=LesionCrop(0.5), normalisation=("unit", "zscore")[cached]
    )
    preprocessing = prediction_preprocessing(settings, with_label=True)
    augmentation = training_augmentation(settings, crop_jitter=0.0, **quiet)
    item = training_transforms(preprocessing, augmentation)({"image": pixels, "label": mask})
    expected = preprocessing({"image": pixels, "label": mask})
    assert type(item["image"]) is torch.Tensor and "native_label" not in item
    torch.testing.assert_close(item["image"], expected["image"].as_tensor(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(item["label"], torch.as_tensor(expected["label"]))


def test_what_is_cached_is_small(pixels, mask) -> None:
    chain = training_transforms(
        prediction_preprocessing(CROP, with_label=True), training_augmentation(CROP)
    )
    kinds = [type(step) for step in chain.transforms]
    place = kinds.index(RandomCropToLesiond)
    assert kinds.index(CropToLesiond) == place - 1
    item: dict = {"image": pixels, "label": mask}
    for step in chain.transforms[:place]:
        item = step(item)
    assert item["image"].numel() < pixels.size / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"crop_jitter": 0.7}, "crop_jitter"), ({"no_lesion_crop_probability": 2}, "no_lesion_crop")],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_augmentation(CROP, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"margin": -1}, "margin must lie in"),
        ({"when_no_lesion": "guess"}, "when_no_lesion must be one of whole, normal, got 'guess'"),
    ],
)
def test_a_wrong_crop_is_named(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InferenceSettings(lesion_crop=wrong)
