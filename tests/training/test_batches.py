from __future__ import annotations

import torch
from monai.data import MetaTensor

from busi_monai.training import prepare_batch, prepare_batch_with_lesion


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


def test_class_labels_may_be_a_list() -> None:
    _, targets = prepare_batch({"image": torch.rand(2, 1, 4, 4), "class_label": [1, 2]}, "cpu")
    assert targets["cls"].tolist() == [1, 2]


def test_the_true_masks_go_to_the_network_too() -> None:
    batch = {"image": torch.zeros(2, 1, 8, 8), "label": torch.ones(2, 1, 8, 8)}
    image, targets, args, kwargs = prepare_batch_with_lesion(batch, "cpu")
    assert image is not None and args == () and kwargs.keys() == {"lesion"}
    assert torch.equal(kwargs["lesion"], targets["seg"])
