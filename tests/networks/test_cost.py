from __future__ import annotations

import itertools

import pytest
import torch

from busi_monai.networks import MultiTaskUNet, network_cost


def convolution(side: int, before: int, after: int, kernel: int = 3) -> int:
    """Two operations for each multiply-add: kernel² × channels before, at each output value."""
    return 2 * side * side * after * before * kernel * kernel


def test_a_small_unet_costs_what_a_hand_count_gives() -> None:
    network = MultiTaskUNet(encoder_options={"widths": [4, 8]}, head_channels=[5], dropout=0.0)
    down = convolution(16, 1, 4) + convolution(16, 4, 4) + convolution(8, 4, 8)
    bottom = convolution(8, 8, 8)
    # a transposed convolution with stride 2: each of the 8 × 8 values gives 2 × 2 × 4
    up = 2 * 8 * 8 * 8 * 4 * 4 + convolution(16, 8, 4) + convolution(16, 4, 4)
    heads = convolution(16, 4, 1, kernel=1) + 2 * (8 * 5 + 5 * 3)
    assert network_cost(network, (16, 16)) == {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "flops": down + bottom + up + heads,
        "image_size": [16, 16],
    }


def test_the_classic_unet_costs_96_gigaflops() -> None:
    """64 to 1024 channels at 256 × 256, counted by hand layer by layer."""
    with torch.device("meta"):
        network = MultiTaskUNet(
            classes=0, encoder_options={"bias": True}, decoder_options={"bias": True}
        )
    widths, side, flops = [1, 64, 128, 256, 512, 1024], 256, 0
    for before, after in itertools.pairwise(widths):
        flops += convolution(side, before, after) + convolution(side, after, after)
        side //= 2
    side = 16
    for width in (512, 256, 128, 64):
        flops += 2 * side * side * (2 * width) * width * 4
        side *= 2
        flops += convolution(side, 2 * width, width) + convolution(side, width, width)
    flops += convolution(256, 64, 1, kernel=1)
    cost = network_cost(network, (256, 256))
    assert (cost["parameters"], cost["flops"]) == (31_042_369, flops)
    assert flops == 96_183_779_328


def test_nothing_about_the_network_changes() -> None:
    network = MultiTaskUNet(encoder_options={"widths": [4, 8]})
    network.encoder.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network_cost(network, (16, 24))
    assert network.training
    assert network.decoder.training
    assert not any(module.training for module in network.encoder.modules())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_a_size_that_does_not_fit_is_named_and_the_modes_are_kept() -> None:
    network = MultiTaskUNet(encoder_options={"widths": [4, 8]})
    with pytest.raises(ValueError, match="divisible by 2"):
        network_cost(network, (15, 16))
    assert network.encoder.training
