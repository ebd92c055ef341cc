"""MONAI's own U-Nets, taken apart into encoder and decoder so that a head fits between them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from busi_monai.networks.blocks import initialise_kaiming
from busi_monai.networks.decoder import Decoder
from busi_monai.networks.encoders import Encoder, refuse_decoder_options, register_encoder

__all__ = ["BasicUNetEncoder", "MonaiUNetEncoder"]


@register_encoder("basicunet")
class BasicUNetEncoder(Encoder):
    """The contracting path of MONAI's ``BasicUNet``; its decoder is that network's other half.

    Args:
        features: six widths: of five levels and of the last decoder level.
        in_channels: channels of the input.
        options: further arguments of ``BasicUNet``: ``act``, ``norm``, ``bias``, ``dropout``,
            ``upsample``.
    """

    def __init__(
        self,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        *,
        in_channels: int = 1,
        **options: Any,
    ) -> None:
        if len(features) != 6:
            raise ValueError(f"features must have six entries, got {list(features)}")
        super().__init__(
            in_channels=in_channels, channels=list(features[:5]), strides=[1, 2, 4, 8, 16]
        )
        self._options = {**options, "features": tuple(features)}
        network = _basic_unet(in_channels, self._options)
        self.conv_0 = network.conv_0
        self.downs = nn.ModuleList([network.down_1, network.down_2, network.down_3, network.down_4])
        initialise_kaiming(self)

    def build_decoder(self, **options: Any) -> Decoder:
        """Return the expanding path of the same ``BasicUNet``, which takes no options."""
        refuse_decoder_options("basicunet", options)
        return _BasicUNetDecoder(_basic_unet(1, self._options), self._options["features"])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of the five levels, fine to coarse."""
        current = self.conv_0(image)
        features: list[Tensor] = [current]
        for down in self.downs:
            current = down(current)
            features.append(current)
        return features


class _BasicUNetDecoder(Decoder):
    def __init__(self, network: BasicUNet, features: Sequence[int]) -> None:
        super().__init__([features[3], features[2], features[1], features[5]], strides=[8, 4, 2, 1])
        self.ups = nn.ModuleList(
            [network.upcat_4, network.upcat_3, network.upcat_2, network.upcat_1]
        )
        initialise_kaiming(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        current = features[-1]
        outputs: list[Tensor] = []
        for index, up in enumerate(self.ups):
            current = up(current, features[len(features) - 2 - index])
            outputs.append(current)
        return outputs


def _basic_unet(in_channels: int, options: dict[str, Any]) -> BasicUNet:
    return BasicUNet(spatial_dims=2, in_channels=in_channels, out_channels=1, **options)


@register_encoder("monai_unet")
class MonaiUNetEncoder(Encoder):
    """The contracting path of MONAI's ``UNet`` with its bottom layer; the decoder likewise.

    Args:
        widths: ``channels`` of MONAI's ``UNet``; the last is the bottom layer's, of stride 1.
        level_strides: ``strides`` of MONAI's ``UNet``, one less than widths.
        in_channels: channels of the input.
        num_res_units: convolutions of each residual unit, 0 for plain convolutions.
        options: further arguments of ``UNet``: ``act``, ``norm``, ``bias``, ``dropout``, ….
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        level_strides: Sequence[int] = (2, 2, 2, 2),
        *,
        in_channels: int = 1,
        num_res_units: int = 2,
        **options: Any,
    ) -> None:
        if len(level_strides) != len(widths) - 1:
            raise ValueError(
                f"level_strides must have one entry less than widths {list(widths)}, got "
                f"{list(level_strides)}"
            )
        strides = list(itertools.accumulate(level_strides, operator.mul))
        super().__init__(
            in_channels=in_channels, channels=list(widths), strides=[*strides, strides[-1]]
        )
        self._options = {
            **options,
            "channels": tuple(widths),
            "strides": tuple(level_strides),
            "num_res_units": num_res_units,
        }
        self.downs, _ = _halves(in_channels, self._options)
        initialise_kaiming(self)

    def build_decoder(self, **options: Any) -> Decoder:
        """Return the expanding path of the same ``UNet``, which takes no options."""
        refuse_decoder_options("monai_unet", options)
        _, ups = _halves(1, self._options)
        return _MonaiUNetDecoder(ups, self.channels, self.strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of all levels and of the bottom layer."""
        current = image
        features: list[Tensor] = []
        for down in self.downs:
            current = down(current)
            features.append(current)
        return features


class _MonaiUNetDecoder(Decoder):
    """The upper halves, the last of which gives the mask's logits."""

    def __init__(self, ups: nn.ModuleList, channels: list[int], strides: list[int]) -> None:
        super().__init__([*channels[-3::-1], 1], [*strides[-3::-1], 1], gives_logits=True)
        self.ups = ups
        initialise_kaiming(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        current = features[-1]
        outputs: list[Tensor] = []
        for index, up in enumerate(self.ups):
            current = up(torch.cat([features[len(features) - 2 - index], current], dim=1))
            outputs.append(current)
        return outputs


def _halves(in_channels: int, options: dict[str, Any]) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Take MONAI's nested ``UNet`` apart: ways down from the top, ways up from the bottom."""
    network = UNet(spatial_dims=2, in_channels=in_channels, out_channels=1, **options)
    downs, ups = nn.ModuleList(), nn.ModuleList()
    level: Any = network.model
    for _ in options["strides"]:
        down, skip, up = level
        downs.append(down)
        ups.insert(0, up)
        level = skip.submodule
    downs.append(level)
    return downs, ups
