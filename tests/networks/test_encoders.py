"""One tester for every encoder; an encoder registered without a subclass fails the suite."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from busi_monai.errors import InputError
from busi_monai.networks import ENCODERS, MultiTaskUNet, build_encoder, register_encoder
from busi_monai.networks.library_encoders import import_library

HEIGHT, WIDTH = 64, 96
SMALL_RESNET = {"widths": [4, 8, 8, 16]}


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(count))


@cache
def network_of(name: str, options: tuple[tuple[str, Any], ...], **heads: Any) -> MultiTaskUNet:
    """A network whose normalisations have seen images, so that its logits differ between them."""
    torch.manual_seed(0)
    network = MultiTaskUNet(name, encoder_options=dict(options), head_channels=(), **heads)
    network.train()
    for _ in range(3):
        network(torch.rand(4, 1, HEIGHT, WIDTH))
    return network.eval()


def greatest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert set(one) == set(other)
    return max((one[head] - other[head]).abs().max().item() for head in one)


def skip_without(library: str | None) -> None:
    try:
        if library is not None:
            import_library(library)
    except InputError as error:
        pytest.skip(str(error))


class EncoderTester:
    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    stride: ClassVar[int] = 32
    larger_than: ClassVar[str | None] = None
    """An encoder of the same blocks, whose slow export need not be shown twice each time."""
    library: ClassVar[str | None] = None
    """A package of the extra ``encoders``, without which the tests are skipped."""

    @pytest.fixture(autouse=True)
    def _library_is_there(self) -> None:
        skip_without(self.library)

    def network(self, **heads: Any) -> MultiTaskUNet:
        return network_of(self.name, tuple(self.options.items()), **heads)

    def test_maps_have_the_stated_channels_and_strides(self) -> None:
        encoder = build_encoder(self.name, **self.options).eval()
        maps = encoder(images())
        expected = [
            (2, channels, HEIGHT // stride, WIDTH // stride)
            for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        ]
        assert [tuple(each.shape) for each in maps] == expected

    def test_both_heads(self) -> None:
        network = self.network()
        with torch.no_grad():
            outputs = network(images())
        assert list(outputs) == ["seg", "cls"]
        assert outputs["seg"].shape == (2, 1, HEIGHT, WIDTH)
        assert outputs["cls"].shape == (2, 3)
        assert network.stride == self.stride

    def test_every_weight_gets_a_gradient(self) -> None:
        network = MultiTaskUNet(
            self.name, encoder_options=self.options, deep_supervision=True
        ).train()
        outputs = network(images())
        sum(logits.square().mean() for logits in outputs.values()).backward()
        without = [name for name, weight in network.named_parameters() if weight.grad is None]
        assert without == []
        assert sum(key.startswith("seg_aux") for key in outputs) == len(network.aux_heads) > 0

    def test_wrong_size_names_the_fitting_one(self) -> None:
        with pytest.raises(ValueError, match=rf"divisible by {self.stride}\.") as caught:
            self.network()(torch.rand(1, 1, HEIGHT - 1, WIDTH + 1))
        assert f"to shape ({HEIGHT}, {WIDTH + self.stride})" in str(caught.value)
        assert f"height={HEIGHT - 1}, width={WIDTH + 1}" in str(caught.value)

    def test_three_channels_are_the_grey_one_repeated(self) -> None:
        network = MultiTaskUNet(
            self.name, segmentation=False, encoder_options={**self.options, "in_channels": 3}
        ).eval()
        with torch.no_grad():
            found = network.encoder(images().repeat(1, 3, 1, 1))
            outputs = network(images())
        torch.testing.assert_close(outputs["cls"], network.cls_head(found[-1]))

    def test_torchscript_gives_the_same(self) -> None:
        network = self.network()
        with torch.no_grad():
            scripted = torch.jit.script(network)
            assert greatest_difference(network(images()), scripted(images())) < 1e-5


class TestUNet(EncoderTester):
    name = "unet"
    options: ClassVar = {"widths": (4, 8, 16)}
    stride = 4


class TestBasicUNet(EncoderTester):
    name = "basicunet"
    options: ClassVar = {"features": (4, 4, 8, 8, 16, 4)}
    stride = 16


class TestMonaiUNet(EncoderTester):
    name = "monai_unet"
    options: ClassVar = {"widths": (4, 8, 16), "level_strides": (2, 2)}
    stride = 4


class TestBasicUNetPlusPlus(EncoderTester):
    name = "basicunetplusplus"
    options: ClassVar = {"features": (4, 4, 8, 8, 16, 6)}
    stride = 16


class TestSegResNet(EncoderTester):
    name = "segresnet"
    options: ClassVar = {"init_filters": 8, "blocks_down": (1, 1, 2), "blocks_up": (1, 1)}
    stride = 4


class TestDynUNet(EncoderTester):
    name = "dynunet"
    options: ClassVar = {"filters": (4, 8, 8, 16), "level_strides": (1, 2, 2, 2)}
    stride = 8


class TestResNet18(EncoderTester):
    name = "resnet18"
    options: ClassVar = {"widths": (4, 8, 8, 16)}


class TestResNet34(EncoderTester):
    name = "resnet34"
    larger_than = "resnet18"
    options: ClassVar = {"widths": (4, 8, 8, 16)}


class TestResNet50(EncoderTester):
    name = "resnet50"
    larger_than = "resnet18"
    options: ClassVar = {"widths": (4, 8, 8, 16)}


class TestEfficientNetB0(EncoderTester):
    name = "efficientnet-b0"


class TestEfficientNetB2(EncoderTester):
    name = "efficientnet-b2"
    larger_than = "efficientnet-b0"


class TestEfficientNetLite0(EncoderTester):
    name = "efficientnet-lite0"


class TestEfficientNetLite1(EncoderTester):
    name = "efficientnet-lite1"
    larger_than = "efficientnet-lite0"


class TestEfficientNetLite2(EncoderTester):
    name = "efficientnet-lite2"
    larger_than = "efficientnet-lite0"


class TestSmp(EncoderTester):
    name = "smp"
    library = "segmentation_models_pytorch"
    options: ClassVar = {"name": "efficientnet-b0"}

    def test_every_weight_gets_a_gradient(self) -> None:
        """Those behind the last map are frozen, so that several GPUs do not wait for them."""
        network = MultiTaskUNet(self.name, encoder_options=self.options).train()
        sum(logits.square().mean() for logits in network(images()).values()).backward()
        frozen = {n for n, weight in network.named_parameters() if not weight.requires_grad}
        without = {n for n, weight in network.named_parameters() if weight.grad is None}
        layers = ("_conv_head.weight", "_bn1.weight", "_bn1.bias")
        assert frozen == without == {f"encoder.model.{layer}" for layer in layers}


class TestTimm(EncoderTester):
    name = "timm"
    library = "timm"
    options: ClassVar = {"name": "convnext_atto"}


@pytest.mark.parametrize(
    "tester",
    [
        pytest.param(tester, id=tester.name, marks=pytest.mark.slow if tester.larger_than else ())
        for tester in EncoderTester.__subclasses__()
    ],
)
def test_torch_export_gives_the_same_for_any_batch(tester: type[EncoderTester]) -> None:
    skip_without(tester.library)
    network = tester().network()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        network, (images(2),), dynamic_shapes={"image": {0: batch}}
    ).module()
    with torch.no_grad():
        for count in (1, 5):
            found, expected = program(images(count)), network(images(count))
            assert greatest_difference(found, expected) < 1e-5


def test_every_encoder_has_a_tester() -> None:
    assert {tester.name for tester in EncoderTester.__subclasses__()} == set(ENCODERS)


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
