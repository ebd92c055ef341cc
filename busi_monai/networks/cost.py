"""What a network costs: its parameters, and the arithmetic of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["network_cost"]


def network_cost(network: nn.Module, image_size: Sequence[int]) -> dict[str, Any]:
    """Return the parameters of a network and the operations of one forward pass.

    A multiply-add counts as two operations, as ``torch.utils.flop_counter`` counts convolutions and
    matrix products; normalisation, activations and resizing count nothing. So the figures are twice
    the "MACs" (often called FLOPs, too) of other tables.

    The network takes (1, 1, H, W) images, and stays as it is. On the device ``meta`` nothing is
    computed, only counted.

    Returns:
        ``parameters`` and ``flops`` (numbers; of one image in prediction mode), ``image_size``.

    Examples:
        >>> cost = network_cost(nn.Conv2d(1, 2, kernel_size=3, padding=1), (8, 8))
        >>> cost["parameters"], cost["flops"] == 2 * 8 * 8 * 2 * 9
        (20, True)
    """
    height, width = (int(side) for side in image_size)
    weight = next(network.parameters())
    image = torch.zeros(1, 1, height, width, device=weight.device, dtype=weight.dtype)
    modes = [(module, module.training) for module in network.modules()]
    counter = FlopCounterMode(display=False)
    network.eval()
    try:
        with torch.no_grad(), counter:
            network(image)
    finally:
        for module, training in modes:
            module.training = training
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flops": int(counter.get_total_flops()),
        "image_size": [height, width],
    }
