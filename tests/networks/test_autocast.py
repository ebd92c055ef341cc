from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from busi_monai.networks.autocast import AutocastInferer


class Probe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.seen: list[tuple[torch.dtype, bool, type]] = []

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.convolution(image)
        channels_last = image.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((features.dtype, channels_last, type(image)))
        return {"seg": features, "cls": features.mean((2, 3))}


@pytest.mark.parametrize(
    ("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_network_runs_in_the_precision_and_gives_float32(
    precision: str, inside: torch.dtype
) -> None:
    network = Probe()
    outputs = AutocastInferer(precision)(torch.rand(2, 1, 8, 8), network)
    assert network.seen[0][0] is inside
    assert {value.dtype for value in outputs.values()} == {torch.float32}


def test_network_sees_a_plain_tensor_in_channels_last() -> None:
    network = Probe()
    AutocastInferer("fp32")(MetaTensor(torch.rand(2, 1, 8, 8)), network)
    assert network.seen[0][1:] == (True, torch.Tensor)


def test_a_list_and_a_tensor_come_back_as_such() -> None:
    image = torch.rand(1, 1, 4, 4)
    assert isinstance(AutocastInferer()(image, nn.Identity()), torch.Tensor)
    assert isinstance(AutocastInferer()(image, lambda x: [x, x]), list)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="int8"):
        AutocastInferer("int8")
