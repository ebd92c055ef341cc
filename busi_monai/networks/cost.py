"""What a network costs: its parameters, and the arithmetic of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["network_cost"]


def network_cost(network: nn.Module, image_size: Sequence[int]) -> dict[str, Any]:
    """Return the parameters of a network and the operations of one forward pass.

    Args:
        network: takes (1, 1, H, W) float pictures; left in the mode it is in.
        image_size: (H, W) in pixels.

    Returns:
        ``parameters``, ``flops`` (two for each multiply-add of convolutions and matrix products, as
        ``torch.utils.flop_counter`` counts; normalisation and activations count nothing) and
        ``image_size``.

    Examples:
        >>> cost = network_cost(nn.Conv2d(1, 2, kernel_size=3, padding=1), (8, 8))
        >>> cost["parameters"], cost["flops"] == 2 * 8 * 8 * 2 * 9
        (20, True)
    """
    height, width = (int(side) for side in image_size)
    device = next(network.parameters()).device
    training = network.training
    counter = FlopCounterMode(display=False)
    network.eval()
    try:
        with torch.no_grad(), counter:
            network(torch.zeros(1, 1, height, width, device=device))
    finally:
        network.train(training)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flops": int(counter.get_total_flops()),
        "image_size": [height, width],
    }
