"""How the network is called: plainly, averaged with the mirror image, or for a heat map."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from monai.inferers import Inferer
from monai.visualize import GradCAM
from torch import Tensor, nn

from busi_monai.errors import InputError
from busi_monai.networks import EnsembleNetwork, HeadOutput, MultiTaskUNet
from busi_monai.settings import InferenceSettings

__all__ = [
    "FlipAveragingInferer",
    "PlainInferer",
    "class_heat_map",
    "prediction_inferer",
    "single_networks",
]


class _ExactKernels:
    """Sets cuDNN's flags while any thread is within; they are the whole process's."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._within = 0
        self._flags = ExitStack()

    def __enter__(self) -> None:
        with self._changing:
            if not self._within:
                self._flags.enter_context(
                    torch.backends.cudnn.flags(
                        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
                    )
                )
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._changing:
            self._within -= 1
            if not self._within:
                self._flags.close()


_exact_kernels = _ExactKernels()


class PlainInferer(Inferer):
    """Calls the network once, with deterministic kernels and full fp32 on a GPU.

    cuDNN otherwise takes TensorFloat-32, whose ten bits of mantissa move masks, and picks its
    kernels by a race.
    """

    averages_flips = False

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the network's logits of (N, 1, H, W) images; further arguments are passed on."""
        with _exact_kernels:
            return network(inputs, *args, **kwargs)


class FlipAveragingInferer(PlainInferer):
    """Averages the network's logits for an image and for its mirror image.

    Logits are averaged rather than probabilities: the temperature of ``settings.json`` divides
    averaged logits, nothing saturates, and no clamping is needed on the way back. For two
    probabilities this is their normalised geometric mean. The mask of the mirror image is mirrored
    back first, so that a mirrored image gets exactly the mirrored mask and the same class.

    Examples:
        >>> averaging = FlipAveragingInferer()
        >>> outputs = averaging(torch.rand(2, 1, 8, 8), lambda image: {"seg": image})
        >>> outputs["seg"].shape
        torch.Size([2, 1, 8, 8])
    """

    averages_flips = True

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return averaged logits of (N, 1, H, W) images, in a dict.

        Further images and masks (N, 1, H, W), passed on to the network, are mirrored as well.
        """
        # two calls rather than one of twice the batch, which would take twice the memory
        straight = super().__call__(inputs, network, *args, **kwargs)
        mirrored = super().__call__(
            inputs.flip(-1),
            network,
            *(_mirrored(value) for value in args),
            **{name: _mirrored(value) for name, value in kwargs.items()},
        )
        return {head: (straight[head] + _mirrored(mirrored[head])) / 2 for head in straight}


def _mirrored(value: Any) -> Any:
    return value.flip(-1) if isinstance(value, Tensor) and value.ndim == 4 else value


def single_networks(network: nn.Module) -> list[nn.Module]:
    """Return an ensemble's members as networks of their own, or any other network alone.

    A member's class logits are divided by its temperature, as in the ensemble's mean.
    """
    if not isinstance(network, EnsembleNetwork):
        return [network]
    return [
        EnsembleNetwork([member], [temperature]).eval()
        for member, temperature in zip(network.members, network.temperatures, strict=True)
    ]


def prediction_inferer(
    settings: InferenceSettings, *, tta_flip: bool | None = None
) -> PlainInferer:
    """Return the inferer that the settings ask for, or ``tta_flip`` if it is given."""
    wanted = settings.tta_flip if tta_flip is None else tta_flip
    return FlipAveragingInferer() if wanted else PlainInferer()


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
