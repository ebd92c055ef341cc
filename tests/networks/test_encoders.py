"""One tester for every encoder; an encoder registered without a case fails the suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from busi_monai.errors import InputError
from busi_monai.networks import ENCODERS, MultiTaskUNet, build_encoder, register_encoder
from busi_monai.networks.encoders import Encoder
from busi_monai.networks.library_encoders import import_library

HEIGHT, WIDTH = 64, 96


@dataclass(frozen=True, eq=False)
class Case:
    """A small instance of an encoder.

    ``library`` is a package of the extra ``encoders``, without which the tests are skipped;
    ``frozen`` layers lie behind the last map, so that several GPUs do not wait for them. The slow
    export of an encoder ``like`` another, of the same blocks, need not be shown each time.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    stride: int = 32
    like: str = ""
    library: str = ""
    frozen: tuple[str, ...] = ()


SMALL_RESNET = {"widths": (4, 8, 8, 16)}
CASES = (
    Case("unet", {"widths": (4, 8, 16)}, stride=4),
    Case("basicunet", {"features": (4, 4, 8, 8, 16, 4)}, stride=16),
    Case("basicunetplusplus", {"features": (4, 4, 8, 8, 16, 6)}, stride=16),
    Case("monai_unet", {"widths": (4, 8, 16), "level_strides": (2, 2)}, stride=4),
    Case("segresnet", {"init_filters": 8, "blocks_down": (1, 1, 2), "blocks_up": (1, 1)}, stride=4),
    Case("dynunet", {"filters": (4, 8, 8, 16), "level_strides": (1, 2, 2, 2)}, stride=8),
    Case("resnet18", SMALL_RESNET),
    Case("resnet34", SMALL_RESNET, like="resnet18"),
    Case("resnet50", SMALL_RESNET, like="resnet18"),
    Case("efficientnet-b0"),
    Case("efficientnet-b2", like="efficientnet-b0"),
    Case("efficientnet-lite0"),
    Case("efficientnet-lite1", like="efficientnet-lite0"),
    Case("efficientnet-lite2", like="efficientnet-lite0"),
    Case(
        "smp",
        {"name": "efficientnet-b0"},
        library="segmentation_models_pytorch",
        frozen=("_conv_head.weight", "_bn1.weight", "_bn1.bias"),
    ),
    Case("timm", {"name": "convnext_atto"}, library="timm"),
)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(count))


@cache
def network_of(encoder: Case) -> MultiTaskUNet:
    """A network whose normalisations have seen images, so that its logits differ between them."""
    torch.manual_seed(0)
    network = MultiTaskUNet(encoder.name, encoder_options=encoder.options, head_channels=())
    network.train()
    for _ in range(3):
        network(torch.rand(4, 1, HEIGHT, WIDTH))
    return network.eval()


def greatest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert set(one) == set(other)
    return max((one[head] - other[head]).abs().max().item() for head in one)


def skip_without(library: str) -> None:
    try:
        if library:
            import_library(library)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def encoder(request: pytest.FixtureRequest) -> Case:
    skip_without(request.param.library)
    return request.param


@pytest.fixture
def network(encoder: Case) -> MultiTaskUNet:
    return network_of(encoder)


def test_maps_have_the_stated_channels_and_strides(encoder: Case) -> None:
    built = build_encoder(encoder.name, **encoder.options).eval()
    expected = [
        (2, channels, HEIGHT // stride, WIDTH // stride)
        for channels, stride in zip(built.channels, built.strides, strict=True)
    ]
    assert [tuple(each.shape) for each in built(images())] == expected


def test_both_heads(encoder: Case, network: MultiTaskUNet) -> None:
    with torch.no_grad():
        outputs = network(images())
    assert list(outputs) == ["seg", "cls"]
    assert outputs["seg"].shape == (2, 1, HEIGHT, WIDTH)
    assert outputs["cls"].shape == (2, 3)
    assert network.stride == encoder.stride


def test_every_weight_gets_a_gradient(encoder: Case) -> None:
    network = MultiTaskUNet(
        encoder.name, encoder_options=encoder.options, deep_supervision=True
    ).train()
    outputs = network(images())
    sum(logits.square().mean() for logits in outputs.values()).backward()
    frozen = {name for name, w in network.named_parameters() if not w.requires_grad}
    without = {name for name, w in network.named_parameters() if w.grad is None}
    assert without == frozen == {f"encoder.model.{layer}" for layer in encoder.frozen}
    assert sum(key.startswith("seg_aux") for key in outputs) == len(network.aux_heads) > 0


def test_wrong_size_names_the_fitting_one(encoder: Case, network: MultiTaskUNet) -> None:
    with pytest.raises(ValueError, match=rf"divisible by {encoder.stride}\.") as caught:
        network(torch.rand(1, 1, HEIGHT - 1, WIDTH + 1))
    assert f"to shape ({HEIGHT}, {WIDTH + encoder.stride})" in str(caught.value)
    assert f"height={HEIGHT - 1}, width={WIDTH + 1}" in str(caught.value)


def test_three_channels_are_the_grey_one_repeated(encoder: Case) -> None:
    options = {**encoder.options, "in_channels": 3}
    network = MultiTaskUNet(encoder.name, segmentation=False, encoder_options=options).eval()
    with torch.no_grad():
        found = network.encoder(images().repeat(1, 3, 1, 1))
        outputs = network(images())
    torch.testing.assert_close(outputs["cls"], network.cls_head(found[-1]))


def test_torchscript_gives_the_same(network: MultiTaskUNet) -> None:
    with torch.no_grad():
        scripted = torch.jit.script(network)
        assert greatest_difference(network(images()), scripted(images())) < 1e-5


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(each, id=each.name, marks=pytest.mark.slow if each.like else ())
        for each in CASES
    ],
)
def test_torch_export_gives_the_same_for_any_batch(encoder: Case) -> None:
    skip_without(encoder.library)
    network = network_of(encoder)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        network, (images(2),), dynamic_shapes={"image": {0: batch}}
    ).module()
    with torch.no_grad():
        for count in (1, 5):
            found, expected = program(images(count)), network(images(count))
            assert greatest_difference(found, expected) < 1e-5


def test_every_encoder_is_tested() -> None:
    assert {each.name for each in CASES} == set(ENCODERS)


def test_unknown_encoder_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"resnet18.*unet, got 'vgg'"):
        build_encoder("vgg")


def test_unknown_option_names_the_encoder() -> None:
    with pytest.raises(TypeError, match=r"encoder 'resnet18' with options \{'depth': 3\}"):
        build_encoder("resnet18", depth=3)


def test_an_encoder_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'unet' is registered already"):
        register_encoder("unet")(lambda: None)


def test_unet_needs_two_levels() -> None:
    with pytest.raises(ValueError, match=r"at least two levels, got \[8\]"):
        build_encoder("unet", widths=[8])


def test_resnet_has_the_weights_of_the_paper() -> None:
    """torchvision's ResNet-18 and -50 without their last layer, for three channels."""
    for name, expected in (("resnet18", 11_176_512), ("resnet50", 23_508_032)):
        encoder = build_encoder(name, in_channels=3)
        assert sum(weight.numel() for weight in encoder.parameters()) == expected


def test_efficientnet_is_monais() -> None:
    from monai.networks.nets.efficientnet import EfficientNetBNFeatures

    encoder = build_encoder("efficientnet-b0").eval()
    monai = EfficientNetBNFeatures("efficientnet-b0", pretrained=False, in_channels=1).eval()
    assert monai.load_state_dict(encoder.state_dict(), strict=False).unexpected_keys == []
    with torch.no_grad():
        for found, expected in zip(encoder(images()), monai(images()), strict=True):
            torch.testing.assert_close(found, expected)


def test_drop_connect_is_scaled() -> None:
    rates = [
        block.drop_connect_rate
        for block in build_encoder("efficientnet-b0", drop_connect=0.4)._blocks.modules()
        if hasattr(block, "drop_connect_rate")
    ]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.4 * 15 / 16)


def test_the_default_decoder_has_as_many_levels_as_the_encoder() -> None:
    encoder = Encoder(in_channels=1, channels=[4, 8, 16], strides=[1, 2, 4])
    assert encoder.decoder_defaults()["channels"] == (48, 32)
    assert len(encoder.build_decoder().strides) == 2
