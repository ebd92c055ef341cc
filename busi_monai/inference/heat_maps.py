"""Where in an image a class decision comes from: MONAI's Grad-CAM on the class head's input."""

from __future__ import annotations

import torch
from monai.visualize import GradCAM
from torch import Tensor, nn

from busi_monai.errors import InputError
from busi_monai.networks import EnsembleNetwork, HeadOutput, MultiTaskUNet

__all__ = ["class_heat_map"]


def class_heat_map(network: nn.Module, image: Tensor, class_index: int) -> Tensor:
    """Return how much each place speaks for a class (Selvaraju et al., ICCV 2017, "Grad-CAM").

    The gradient of the class's logit with respect to the bottleneck, of which the class head
    makes its decision; what speaks against the class is 0. An ensemble's map is its members' mean.

    Args:
        network: a ``MultiTaskUNet`` with class head, or an ensemble of such, in evaluation mode.
        image: (1, 1, h, w) float, preprocessed.
        class_index: which logit.

    Returns:
        (h, w) float32 in [0, 1], its greatest value 1 unless no place speaks for the class.

    Raises:
        InputError: for another network.
    """
    members = network.members if isinstance(network, EnsembleNetwork) else [network]
    maps = [_heat_map(member, image, class_index) for member in members]
    return _scaled(torch.stack(maps).mean(dim=0))


def _heat_map(network: nn.Module, image: Tensor, class_index: int) -> Tensor:
    if not (isinstance(network, MultiTaskUNet) and network.has_classification):
        raise InputError(
            f"a heat map needs a network whose class head sees the whole image; "
            f"{type(network).__name__} has none"
        )
    explain = GradCAM(
        nn_module=HeadOutput(network, "cls").eval(),  # else MONAI leaves all of it in training mode
        target_layers="network.bottleneck",
        postprocessing=_scaled,
    )
    try:
        with torch.enable_grad():
            found = explain(image.clone().requires_grad_(), class_idx=class_index)
    finally:
        network.bottleneck = nn.Identity().eval()  # MONAI never takes its hooks off again
        network.zero_grad()
    return torch.as_tensor(found)[0, 0].detach().float().cpu()


def _scaled(values: Tensor) -> Tensor:
    """Return the positive values divided by the greatest."""
    positive = torch.as_tensor(values).clamp(min=0)
    return positive / positive.max().clamp(min=torch.finfo(positive.dtype).tiny)
