"""``PredictionGraph``: from grey pixels to a mask at native size, as one exportable module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from busi_monai.errors import InputError
from busi_monai.networks import EnsembleNetwork, MultiTaskUNet
from busi_monai.settings import InferenceSettings

__all__ = ["PredictionGraph"]

Axis = tuple[Tensor, Tensor, Tensor]
"""Of one image axis: its native length, that within the network's input, and where it starts."""


class PredictionGraph(nn.Module):
    """A network with its preprocessing, mirror averaging and the way back to native size.

    Both resizes are matrix products with weights computed from the image's size, so that every
    runtime gives the same: a runtime's own antialiased resize, where there is one, is another.

    Args:
        network: takes (N, 1, h, w) and returns a dict of logits.
        settings: image size, aspect, normalisation, ``tta_flip`` and ``mask_threshold``.

    Shapes:
        ``forward`` takes an 8-bit grey image (1, 1, H, W) uint8 of any size from 2×2 px. A deeper
        image has up to two further planes (P, 1, H, W): a grey value is the first plane's plus
        the second's / 256 plus the third's / 65536. It returns the outputs that ``outputs`` names:
        ``lesion_probability`` (1, 1, H, W) float32, ``mask`` (1, 1, H, W) uint8 of 0 and 1,
        ``logits`` (views, classes) of the image and, with ``tta_flip``, of its mirror image,
        ``features`` (1, F): the bottleneck's mean over places and views, and, except of an
        ensemble, ``mask_logits`` (views, 1, h, w) of the network, the mirror image's mirrored back.

    Raises:
        InputError: if the settings ask for what no graph does: a median filter, CLAHE, or a
            crop to the known lesion.
    """

    digits: Tensor

    def __init__(self, network: nn.Module, settings: InferenceSettings) -> None:
        super().__init__()
        for name in ("median_filter", "clahe", "lesion_crop"):
            if getattr(settings, name):
                raise InputError(f"no exported graph covers {name}; predict with --engine torch")
        self.network = network
        self.height, self.width = settings.image_size
        self.pad = settings.aspect == "pad"
        self.zscore = settings.normalisation == "zscore"
        self.flip = settings.tta_flip
        self.threshold = settings.mask_threshold
        self.has_mask = bool(getattr(network, "has_segmentation", True))
        self.has_classes = bool(settings.classes)
        self.is_ensemble = isinstance(network, EnsembleNetwork)
        self._watched = _watch_bottlenecks(network)
        self.register_buffer(
            "digits", torch.tensor([1.0, 256.0**-1, 256.0**-2]).reshape(3, 1, 1, 1)
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what ``forward`` returns, in order."""
        parts = {
            ("lesion_probability", "mask"): self.has_mask,
            ("logits",): self.has_classes,
            ("features",): bool(self._watched),
            ("mask_logits",): self.has_mask and not self.is_ensemble,
        }
        return tuple(name for names, there in parts.items() if there for name in names)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the named outputs of one image; see the class."""
        planes, _, height, width = image.shape
        grey = (image.float() * self.digits[:planes]).sum(0, keepdim=True) / 255
        rows, columns = self._axes(height, width)
        fitted = _down(rows, self.height, height) @ grey @ _down(columns, self.width, width).T
        views = fitted.clamp(0, 1)
        if self.zscore:
            deviation = views.std(correction=0)
            views = (views - views.mean()) / torch.where(deviation > 0, deviation, 1.0)
        if self.flip:
            views = torch.cat([views, views.flip(-1)])
        heads: Mapping[str, Tensor] = self.network(views)
        found: list[Tensor] = []
        if self.has_mask:
            each = logits = heads["seg"]
            if self.flip:
                each = torch.cat([logits[:1], logits[1:].flip(-1)])
                logits = (each[:1] + each[1:]) / 2
            enlarged = _up(rows, self.height, height) @ torch.sigmoid(logits)
            probability = enlarged @ _up(columns, self.width, width).T
            found += [probability, (probability >= self.threshold).to(torch.uint8)]
        if self.has_classes:
            found.append(heads["cls"])
        if self._watched:
            pooled = [layer.seen.mean(dim=(0, 2, 3)) for layer in self._watched]
            found.append(torch.cat(pooled)[None])
        if self.has_mask and not self.is_ensemble:
            found.append(each)
        return tuple(found)

    def _axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """As ``busi_monai.imaging.fitted_place``, in operations that a graph has."""
        one = torch.ones(1)
        native = height * one, width * one
        size = self.height * one, self.width * one
        if not self.pad:
            return (native[0], size[0], 0 * one), (native[1], size[1], 0 * one)
        scale = torch.minimum(size[0] / native[0], size[1] / native[1])
        inner = [
            torch.minimum(torch.round(length * scale).clamp(min=1), side)
            for length, side in zip(native, size, strict=True)
        ]
        start = [torch.floor((side - length) / 2) for side, length in zip(size, inner, strict=True)]
        return (native[0], inner[0], start[0]), (native[1], inner[1], start[1])


def _down(axis: Axis, size: int, native: int) -> Tensor:
    """Return the (size, native) weights of a bicubic resize with antialiasing, as torch's.

    Keys' kernel with a = -0.5, stretched by the reduction; 0 beside the place of the image.
    """
    length, inner, start = axis
    places = torch.arange(size).float()[:, None] - start
    scale = length / inner
    distance = torch.arange(native).float()[None] + 0.5 - (places + 0.5) * scale
    x = (distance / scale.clamp(min=1)).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    kernel = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    weights = kernel / kernel.sum(1, keepdim=True)
    return torch.where((places >= 0) & (places < inner), weights, torch.zeros_like(weights))


def _up(axis: Axis, size: int, native: int) -> Tensor:
    """Return the (native, size) weights of the bilinear way back from the image's place."""
    length, inner, start = axis
    places = torch.arange(size).float()[None] - start
    source = (torch.arange(native).float()[:, None] + 0.5) * (inner / length) - 0.5
    source = torch.minimum(source.clamp(min=0), inner - 1)
    return (1 - (source - places).abs()).clamp(min=0)


class _Watched(nn.Identity):
    """An identity that keeps what went through it."""

    seen: Tensor

    def forward(self, values: Tensor) -> Tensor:
        self.seen = values
        return values


def _watch_bottlenecks(network: nn.Module) -> list[_Watched]:
    """Watch what the class heads of a network, or of an ensemble's members, see."""
    members = network.members if isinstance(network, EnsembleNetwork) else [network]
    watched: list[_Watched] = []
    for member in members:
        if isinstance(member, MultiTaskUNet) and member.has_classification:
            watched.append(_Watched())
            member.bottleneck = watched[-1]
    return watched
