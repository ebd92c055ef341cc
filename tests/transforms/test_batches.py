from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch

from busi_monai.settings import InferenceSettings
from busi_monai.transforms import (
    collate_items,
    prediction_postprocessing,
    prediction_preprocessing,
    prepare_batch,
    prepare_batch_with_lesion,
    training_augmentation,
)

OPERATING = InferenceSettings(image_size=(24, 32))


def _items() -> list[dict[str, object]]:
    prepare = prediction_preprocessing(OPERATING, with_label=True)
    lesion = np.zeros((40, 30), dtype=bool)
    lesion[5:20, 10:25] = True
    wide = np.zeros((20, 50))
    shared = {"group": None, "meta": {"device": "x"}, "dataset": "busi"}
    return [
        prepare({"id": "a", "image": np.ones((40, 30)), "label": lesion, "class_label": 1,
                 "spacing_mm": [0.1, 0.2], **shared}),
        prepare({"id": "b", "image": wide, "class_label": 2, "spacing_mm": None, **shared}),
        prepare({"id": "c", "image": wide, "label": wide, "spacing_mm": None, **shared}),
    ]  # fmt: skip


def test_tensors_are_stacked_and_names_listed() -> None:
    batch = collate_items(_items())
    assert isinstance(batch["image"], MetaTensor)
    assert batch["image"].shape == batch["label"].shape == (3, 1, 24, 32)
    assert batch["id"] == ["a", "b", "c"]
    assert batch["group"] == [None, None, None]
    assert "meta" not in batch


def test_missing_class_mask_and_spacing_have_a_value() -> None:
    batch = collate_items(_items())
    assert batch["class_label"].tolist() == [1, 2, -1]
    assert batch["class_label"].dtype == torch.int64
    assert batch["spacing_mm"][0].tolist() == [0.1, 0.2]
    assert bool(batch["spacing_mm"][1:].isnan().all())
    assert bool((batch["label"][1] == -1).all())
    assert batch["native_label"].shape == (3, 1, 40, 50)
    assert bool((batch["native_label"][1] == -1).all())


def test_a_batch_is_split_into_the_items_it_was_made_of() -> None:
    items = _items()
    split = decollate_batch(collate_items(items))
    assert [item["id"] for item in split] == ["a", "b", "c"]
    assert [item["class_label"] for item in split] == [1, 2, -1]
    prepare = prediction_preprocessing(OPERATING)
    restore = prediction_postprocessing(OPERATING, prepare)
    for item, original in zip(split, items, strict=True):
        result = restore({**item, "seg": torch.zeros(1, 24, 32)})
        assert tuple(result["pred"].shape) == tuple(original["image"].meta["spatial_shape"])
        if original["id"] == "b":
            assert result["native_label"] is None
        else:
            assert torch.equal(result["native_label"], original["native_label"])


def test_training_batches_are_plain_tensors() -> None:
    augment = training_augmentation(OPERATING)
    batch = collate_items([augment(item) for item in _items()])
    assert type(batch["image"]) is torch.Tensor
    assert type(batch["label"]) is torch.Tensor
    assert "native_label" not in batch


def test_targets_of_both_heads() -> None:
    batch = {
        "image": MetaTensor(torch.rand(2, 1, 4, 4)),
        "label": MetaTensor(torch.ones(2, 1, 4, 4)),
        "class_label": torch.tensor([0, 2]),
    }
    image, targets = prepare_batch(batch, "cpu")
    assert isinstance(image, MetaTensor)
    assert type(targets["seg"]) is torch.Tensor
    assert targets["cls"].dtype is torch.int64


def test_what_is_unknown_is_left_out() -> None:
    _, targets = prepare_batch({"image": torch.rand(1, 1, 4, 4)}, "cpu")
    assert targets == {}


def test_the_true_masks_go_to_the_network_too() -> None:
    batch = {"image": torch.zeros(2, 1, 8, 8), "label": torch.ones(2, 1, 8, 8)}
    image, targets, args, kwargs = prepare_batch_with_lesion(batch, "cpu")
    assert image is not None and args == () and kwargs.keys() == {"lesion"}
    assert torch.equal(kwargs["lesion"], targets["seg"])
