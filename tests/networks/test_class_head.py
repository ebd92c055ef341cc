from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from busi_monai.networks import POOLINGS, ClassHead, HeadOutput, MultiTaskUNet, network_cost
from busi_monai.networks.class_head import EMPTY_LESION

SMALL = {"widths": [4, 8, 16]}
CHANNELS, HEIGHT, WIDTH, STRIDE = 16, 3, 5, 4


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def bottleneck() -> torch.Tensor:
    return torch.randn(2, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def mask_logits() -> torch.Tensor:
    size = (2, 1, HEIGHT * STRIDE, WIDTH * STRIDE)
    return 4 * torch.randn(size, generator=torch.Generator().manual_seed(1))


def pooled(name: str, logits: torch.Tensor | None = None) -> np.ndarray:
    with torch.no_grad():
        return ClassHead(CHANNELS, 3, pooling=name).pooling(bottleneck(), logits).numpy()


def test_linear_class_head() -> None:
    head = ClassHead(16, 3, hidden=(), dropout=0.2)
    assert [type(layer) for layer in head.layers] == [nn.Dropout, nn.Linear]
    assert head(torch.rand(2, 16, 4, 5)).shape == (2, 3)


def test_dropout_for_each_hidden_layer() -> None:
    with pytest.raises(ValueError, match=r"one for each of the 3 hidden layers, got \[0.5, 0.3\]"):
        ClassHead(16, 3, hidden=(8, 8, 8))


def test_average_is_the_default_and_adds_no_weights() -> None:
    assert next(iter(POOLINGS)) == "average"
    assert set(ClassHead(16, 3, hidden=()).state_dict()) == {"layers.1.weight", "layers.1.bias"}
    np.testing.assert_allclose(pooled("average"), bottleneck().numpy().mean((2, 3)), atol=1e-6)


def test_average_max_holds_both() -> None:
    values = bottleneck().numpy()
    expected = np.concatenate([values.mean((2, 3)), values.max((2, 3))], axis=1)
    np.testing.assert_allclose(pooled("average_max"), expected, atol=1e-6)


def test_mask_weighs_places_by_the_probability_of_their_pixels() -> None:
    values, logits = bottleneck().numpy(), mask_logits()[:, 0].numpy()
    expected = np.zeros((2, CHANNELS))
    for loaded in range(2):
        total = 0.0
        for row in range(HEIGHT):
            for column in range(WIDTH):
                block = logits[loaded, row * STRIDE : (row + 1) * STRIDE]
                block = block[:, column * STRIDE : (column + 1) * STRIDE]
                weight = np.mean(1 / (1 + np.exp(-block))) + EMPTY_LESION
                expected[loaded] += weight * values[loaded, :, row, column]
                total += weight
        expected[loaded] /= total
    found = pooled("mask", mask_logits())
    np.testing.assert_allclose(found[:, :CHANNELS], values.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(found[:, CHANNELS:], expected, atol=1e-5)


def test_mask_passes_smoothly_into_the_average_as_the_lesion_vanishes() -> None:
    """From a lesion that is certain to none, no step is large and the last one is the average."""
    shape = torch.full((2, 1, HEIGHT * STRIDE, WIDTH * STRIDE), -40.0)
    shape[:, :, STRIDE : 2 * STRIDE, : 2 * STRIDE] = 0.0
    courses = [
        pooled("mask", shape + shift)[:, CHANNELS:] for shift in np.linspace(10.0, -20.0, 61)
    ]
    average = bottleneck().numpy().mean((2, 3))
    np.testing.assert_allclose(courses[-1], average, atol=1e-5)
    distances = [np.abs(vector - average).max() for vector in courses]
    assert distances[0] > 0.5 and distances == sorted(distances, reverse=True)
    assert max(np.abs(np.diff(distances))) < 0.15 * distances[0]


def test_attention_is_a_softmax_over_the_places() -> None:
    head = ClassHead(CHANNELS, 3, pooling="attention")
    values = bottleneck().numpy()
    kernel = head.pooling.score.weight.detach().numpy()[0, :, 0, 0]
    scores = np.einsum("nchw,c->nhw", values, kernel)
    weights = np.exp(scores) / np.exp(scores).sum((1, 2), keepdims=True)
    with torch.no_grad():
        found = head.pooling(bottleneck()).numpy()
    np.testing.assert_allclose(found[:, :CHANNELS], values.mean((2, 3)), atol=1e-6)
    expected = np.einsum("nchw,nhw->nc", values, weights)
    np.testing.assert_allclose(found[:, CHANNELS:], expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_parameters_and_operations_are_counted(pooling: str) -> None:
    plain = MultiTaskUNet(encoder_options=SMALL, head_channels=[])
    network = MultiTaskUNet(encoder_options=SMALL, head_channels=[], pooling=pooling)
    cost, before = network_cost(network, (16, 24)), network_cost(plain, (16, 24))
    doubled = 0 if pooling == "average" else CHANNELS * 3
    score = CHANNELS if pooling == "attention" else 0
    places = (16 // 4) * (24 // 4)
    assert cost["parameters"] - before["parameters"] == doubled + score
    assert cost["flops"] - before["flops"] == 2 * doubled + 2 * score * places


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_network_scripts_and_traces(pooling: str) -> None:
    network = MultiTaskUNet(encoder_options=SMALL, pooling=pooling).eval()
    image, other = torch.rand(2, 1, 16, 24), torch.rand(3, 1, 16, 24)
    with torch.no_grad():
        for copy in (torch.jit.script(network), torch.jit.trace(network, image, strict=False)):
            torch.testing.assert_close(copy(other), network(other))
        wrapped = torch.jit.script(HeadOutput(network, "cls"))
        torch.testing.assert_close(wrapped(image), network(image)["cls"])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_weight_learns_from_both_heads_in_half_precision(pooling: str) -> None:
    network = MultiTaskUNet(encoder_options=SMALL, pooling=pooling)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(torch.rand(2, 1, 16, 24))
    assert outputs["cls"].dtype == torch.float32
    sum(logits.square().mean() for logits in outputs.values()).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_the_class_loss_cannot_bend_the_mask() -> None:
    network = MultiTaskUNet(encoder_options=SMALL, pooling="mask")
    network(torch.rand(2, 1, 16, 24))["cls"].square().mean().backward()
    trained = {name for name, weight in network.named_parameters() if weight.grad is not None}
    parts = {name.partition(".")[0] for name in trained}
    assert parts == {"encoder", "cls_head"}


def test_mask_needs_a_mask_head() -> None:
    with pytest.raises(ValueError, match=r"seg_weight=0.*choose another of average, average_max"):
        MultiTaskUNet(encoder_options=SMALL, segmentation=False, pooling="mask")
    with pytest.raises(ValueError, match="needs the mask logits"):
        ClassHead(16, 3, pooling="mask")(torch.rand(1, 16, 2, 2))


def test_unknown_pooling() -> None:
    with pytest.raises(ValueError, match=r"pooling must be one of average, .* got 'max'"):
        ClassHead(16, 3, pooling="max")
