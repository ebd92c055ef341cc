"""The expanding path of a U-Net over any encoder's feature maps, and the blocks it is made of."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

import torch
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets.attentionunet import AttentionBlock
from torch import Tensor, nn

__all__ = [
    "UPSAMPLINGS",
    "Decoder",
    "Normalisation",
    "UNetDecoder",
    "convolution_block",
    "initialise_kaiming",
]

UPSAMPLINGS = ("transpose", "bilinear", "nearest")

Normalisation = str | tuple[str, dict[str, float]]
"""What MONAI's ``get_norm_layer`` takes: ``"batch"``, ``"instance"``, ``("group", {…})``."""


def convolution_block(
    in_channels: int,
    out_channels: int,
    *,
    convolutions: int = 2,
    bias: bool = False,
    norm: Normalisation = "batch",
) -> nn.Sequential:
    """Return ``convolutions`` times 3×3 convolution, normalisation, ReLU; the size is kept.

    With two, this is the double convolution of the U-Net (Ronneberger et al., MICCAI 2015) with
    padding and batch normalisation.
    """
    layers: list[nn.Module] = []
    for before in [in_channels, *[out_channels] * (convolutions - 1)]:
        layers += [
            nn.Conv2d(before, out_channels, kernel_size=3, padding=1, bias=bias),
            get_norm_layer(name=norm, spatial_dims=2, channels=out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def initialise_kaiming(module: nn.Module, *, outputs: Sequence[nn.Module] = ()) -> None:
    """Draw a module's weights as He et al. (ICCV 2015) propose for ReLU networks, in place.

    Normal distribution with the variance ``2 / fan_in`` (``1 / fan_in`` for ``outputs``, the layers
    that give logits); biases 0; normalisations start as the identity.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            linear = any(layer is output for output in outputs)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if linear else "relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and layer.affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class Decoder(nn.Module):
    """What every decoder states and returns.

    ``forward`` takes the encoder's maps, fine to coarse, and returns one map
    (N, channels[i], H / strides[i], W / strides[i]) for each level, coarse to fine.

    Attributes:
        channels: channels of the levels.
        strides: by how much each is smaller than the image.
        gives_logits: whether the last level holds the mask's logits already.
    """

    def __init__(
        self, channels: list[int], strides: list[int], *, gives_logits: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.strides = strides
        self.gives_logits = gives_logits


class UNetDecoder(Decoder):
    """Upsampling, concatenation of the encoder's map of that size, convolutions; level by level.

    Args:
        encoder_channels: channels of the encoder's maps, fine to coarse.
        encoder_strides: their strides.
        channels: channels of each level. With one less than the encoder has maps, the last level
            has the stride of the encoder's finest map; every further one doubles the size without
            an encoder's map, up to the image's size.
        upsample: ``transpose`` (a learnt transposed convolution), ``bilinear`` or ``nearest``.
        attention: whether a gate weighs the encoder's maps (Oktay et al., "Attention U-Net",
            MIDL 2018), MONAI's ``AttentionBlock``.
        skips: whether the encoder's maps besides the coarsest are used at all.
        convolutions, bias, norm: of each level, as ``convolution_block`` takes them.

    Raises:
        ValueError: if there are too few or too many ``channels``, or an unknown ``upsample``.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        encoder_strides: Sequence[int],
        channels: Sequence[int],
        *,
        upsample: str = "bilinear",
        attention: bool = False,
        skips: bool = True,
        convolutions: int = 2,
        bias: bool = False,
        norm: Normalisation = "batch",
    ) -> None:
        factors, skip_channels = _levels(encoder_channels, encoder_strides, len(channels))
        enlarged = itertools.accumulate(factors, operator.mul)
        super().__init__(list(channels), [encoder_strides[-1] // factor for factor in enlarged])
        if not skips:
            skip_channels = [0] * len(skip_channels)
        levels = []
        for index, (width, factor) in enumerate(zip(channels, factors, strict=True)):
            before = encoder_channels[-1] if index == 0 else channels[index - 1]
            up, up_channels = _upsampling(upsample, before, width, factor)
            skip = skip_channels[index]
            join: nn.Module = _Concatenation() if skip else _WithoutSkip()
            if skip and attention:
                join = _GatedConcatenation(up_channels, skip)
            convolve = convolution_block(
                up_channels + skip, width, convolutions=convolutions, bias=bias, norm=norm
            )
            levels.append(_Level(up, join, convolve))
        self.levels = nn.ModuleList(levels)
        initialise_kaiming(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the maps of all levels, coarse to fine."""
        current = features[-1]
        outputs: list[Tensor] = []
        for index, level in enumerate(self.levels):
            current = level(current, features[max(len(features) - 2 - index, 0)])
            outputs.append(current)
        return outputs


class _Level(nn.Module):
    def __init__(self, up: nn.Module, join: nn.Module, convolve: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.join = join
        self.convolve = convolve

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        return self.convolve(self.join(self.up(coarse), skip))


class _WithoutSkip(nn.Module):
    def forward(self, current: Tensor, skip: Tensor) -> Tensor:
        return current


class _Concatenation(nn.Module):
    def forward(self, current: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([current, skip], dim=1)


class _GatedConcatenation(nn.Module):
    def __init__(self, gating: int, skip: int) -> None:
        super().__init__()
        self.gate = AttentionBlock(spatial_dims=2, f_int=max(skip // 2, 1), f_g=gating, f_l=skip)

    def forward(self, current: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([current, self.gate(current, skip)], dim=1)


def _levels(
    encoder_channels: Sequence[int], encoder_strides: Sequence[int], count: int
) -> tuple[list[int], list[int]]:
    """Return the enlargement and the channels of the encoder's map for each decoder level."""
    pairs = list(itertools.pairwise(encoder_strides))
    factors = [coarse // fine for fine, coarse in reversed(pairs)]
    skips = list(encoder_channels[-2::-1])
    further = encoder_strides[0].bit_length() - 1
    if not len(factors) <= count <= len(factors) + further:
        raise ValueError(
            f"decoder_channels must have {len(factors)} to {len(factors) + further} entries for an "
            f"encoder with strides {list(encoder_strides)}, got {count}"
        )
    extra = count - len(factors)
    return factors + [2] * extra, skips + [0] * extra


def _upsampling(name: str, before: int, width: int, factor: int) -> tuple[nn.Module, int]:
    """Return the module that enlarges by ``factor`` and the channels it gives."""
    if name == "transpose":
        return nn.ConvTranspose2d(before, width, kernel_size=factor, stride=factor), width
    if name == "bilinear":
        return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False), before
    if name == "nearest":
        return nn.Upsample(scale_factor=factor, mode="nearest"), before
    raise ValueError(f"upsample must be one of {', '.join(UPSAMPLINGS)}, got {name!r}")
