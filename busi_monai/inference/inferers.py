"""How the network is called in prediction: plainly, or averaged with the mirror image."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from busi_monai.networks import EnsembleNetwork
from busi_monai.settings import InferenceSettings

__all__ = ["FlipAveragingInferer", "PlainInferer", "prediction_inferer", "single_networks"]


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

    Examples:
        >>> PlainInferer()(torch.rand(2, 1, 8, 8), lambda image: {"seg": image})["seg"].shape
        torch.Size([2, 1, 8, 8])
    """

    averages_flips = False

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the network's logits.

        Args:
            inputs: (N, 1, H, W) float images.
            network: the network, or any callable.
            args: passed on to the network.
            kwargs: passed on to the network.
        """
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
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return averaged logits.

        Args:
            inputs: (N, 1, H, W) float images.
            network: gives (N, 1, H, W) and (N, C) logits in a dict, or one such tensor.
            args: passed on to the network; images and masks (N, 1, H, W) mirrored as well.
            kwargs: the same.
        """
        # two calls rather than one of twice the batch, which would take twice the memory
        straight = super().__call__(inputs, network, *args, **kwargs)
        turned = torch.flip(inputs, dims=(-1,))
        turned_args = [_mirrored(value) for value in args]
        turned_kwargs = {name: _mirrored(value) for name, value in kwargs.items()}
        mirrored = super().__call__(turned, network, *turned_args, **turned_kwargs)
        if isinstance(straight, torch.Tensor):
            return _average(straight, mirrored)
        return {head: _average(straight[head], mirrored[head]) for head in straight}


def _mirrored(value: Any) -> Any:
    is_image = isinstance(value, torch.Tensor) and value.ndim == 4
    return torch.flip(value, dims=(-1,)) if is_image else value


def _average(straight: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    if straight.ndim > 2:
        mirrored = torch.flip(mirrored, dims=(-1,))
    return (straight + mirrored) / 2


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
    """Return the inferer that an operating point asks for.

    Args:
        settings: says whether the mirror image is predicted too.
        tta_flip: whether it is, whatever the operating point says; ``None`` follows it.
    """
    wanted = settings.tta_flip if tta_flip is None else tta_flip
    return FlipAveragingInferer() if wanted else PlainInferer()
