from __future__ import annotations

import pytest
import torch
from torch import nn

from busi_monai.networks import HeadOutput, MultiTaskUNet, UNetDecoder

SMALL = {"widths": [4, 8, 16]}


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_classic_multitask_unet_has_the_published_size() -> None:
    network = MultiTaskUNet()
    assert parameters(network.cls_head) == 656_899
    assert parameters(network) - 656_899 == 31_036_481
    assert [layer.p for layer in network.cls_head.modules() if isinstance(layer, nn.Dropout)] == [
        0.5,
        0.3,
    ]


def test_without_mask_head_there_is_no_decoder() -> None:
    network = MultiTaskUNet(segmentation=False, encoder_options=SMALL)
    assert list(network(torch.rand(2, 1, 16, 16))) == ["cls"]
    assert parameters(network) == parameters(network.encoder) + parameters(network.cls_head)


@pytest.mark.parametrize("classes", [0, (), []])
def test_without_class_head(classes: object) -> None:
    network = MultiTaskUNet(classes=classes, encoder_options=SMALL)  # type: ignore[arg-type]
    assert list(network(torch.rand(2, 1, 16, 16))) == ["seg"]
    assert parameters(network.cls_head) == 0


@pytest.mark.parametrize("heads", [{"segmentation": False}, {"classes": 0}])
def test_a_network_with_one_head_scripts(heads: dict[str, int]) -> None:
    network = MultiTaskUNet(encoder_options=SMALL, **heads).eval()  # type: ignore[arg-type]
    scripted = torch.jit.script(network)
    assert list(scripted(torch.rand(1, 1, 16, 16))) == list(network(torch.rand(1, 1, 16, 16)))


def test_a_network_needs_a_head() -> None:
    with pytest.raises(ValueError, match="without a head"):
        MultiTaskUNet(segmentation=False, classes=0)


def test_classes_by_name() -> None:
    network = MultiTaskUNet(classes=("benign", "malignant"), encoder_options=SMALL)
    assert network.classes == 2
    assert network(torch.rand(2, 1, 16, 16))["cls"].shape == (2, 2)


def test_attention_scripts_and_exports() -> None:
    network = MultiTaskUNet("resnet18", encoder_options={"widths": [4, 8, 8, 16]}, attention=True)
    network.eval()
    image = torch.rand(2, 1, 32, 64)
    program = torch.export.export(network, (image,)).module()
    with torch.no_grad():
        for found in (torch.jit.script(network)(image), program(image)):
            torch.testing.assert_close(found["seg"], network(image)["seg"])


def test_deep_supervision_only_while_training() -> None:
    network = MultiTaskUNet(encoder_options=SMALL, deep_supervision=True)
    image = torch.rand(2, 1, 16, 32)
    outputs = network(image)
    assert {head: tuple(logits.shape[2:]) for head, logits in outputs.items() if head != "cls"} == {
        "seg": (16, 32),
        "seg_aux1": (8, 16),
    }
    assert list(torch.jit.script(network)(image)) == list(outputs)
    assert list(network.eval()(image)) == ["seg", "cls"]


@pytest.mark.parametrize("upsample", ["transpose", "bilinear", "nearest"])
@pytest.mark.parametrize("levels", [4, 5])
def test_decoder_up_to_half_or_full_size(upsample: str, levels: int) -> None:
    network = MultiTaskUNet(
        "resnet18",
        encoder_options={"widths": [4, 8, 8, 16]},
        decoder_channels=[8, 8, 4, 4, 2][:levels],
        decoder_options={"upsample": upsample, "convolutions": 1},
    )
    assert network.decoder.strides[-1] == (2 if levels == 4 else 1)
    assert network(torch.rand(2, 1, 32, 64))["seg"].shape == (2, 1, 32, 64)


def test_decoder_without_skips_sees_the_bottleneck_alone() -> None:
    network = MultiTaskUNet(encoder_options=SMALL, decoder_options={"skips": False}).eval()
    maps = network.encoder(torch.rand(1, 1, 16, 16))
    other = [torch.rand_like(feature_map) for feature_map in maps[:-1]] + [maps[-1]]
    torch.testing.assert_close(network.decoder(maps)[-1], network.decoder(other)[-1])


@pytest.mark.parametrize("channels", [[8], [8, 8, 4]])
def test_wrong_number_of_decoder_levels(channels: list[int]) -> None:
    with pytest.raises(ValueError, match=f"decoder_channels must have 2 to 2 .* {len(channels)}"):
        UNetDecoder([4, 8, 16], [1, 2, 4], channels)


def test_unknown_upsampling() -> None:
    with pytest.raises(ValueError, match="upsample must be one of transpose, bilinear, nearest"):
        UNetDecoder([4, 8], [1, 2], [4], upsample="bicubic")


def test_other_normalisations() -> None:
    norm = ("group", {"num_groups": 2})
    network = MultiTaskUNet(encoder_options={**SMALL, "norm": norm}, decoder_options={"norm": norm})
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_kaiming_initialisation() -> None:
    torch.manual_seed(0)
    network = MultiTaskUNet(encoder_options={"widths": [64, 128]})
    layer = network.encoder.levels[1][0]
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    output = network.cls_head.layers[-1]
    assert output.weight.std().item() == pytest.approx((1 / 256) ** 0.5, rel=0.1)
    assert not output.bias.any()


def test_logits_are_float32_under_autocast() -> None:
    network = MultiTaskUNet("resnet18", encoder_options={"widths": [4, 8, 8, 16]})
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(torch.rand(2, 1, 32, 32))
    assert {logits.dtype for logits in outputs.values()} == {torch.float32}


@pytest.mark.parametrize("head", ["seg", "cls"])
def test_head_output(head: str) -> None:
    network = MultiTaskUNet(encoder_options=SMALL).eval()
    image = torch.rand(1, 1, 16, 16)
    wrapped = HeadOutput(network, head)
    torch.testing.assert_close(wrapped(image), network(image)[head])
    torch.testing.assert_close(torch.jit.script(wrapped)(image), network(image)[head])
