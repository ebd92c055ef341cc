"""MONAI's U-Net++, taken apart into encoder and nested decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from torch import Tensor, nn

from busi_monai.networks.blocks import initialise_kaiming
from busi_monai.networks.decoder import Decoder
from busi_monai.networks.encoders import Encoder, refuse_decoder_options, register_encoder

__all__ = ["BasicUNetPlusPlusEncoder"]


@register_encoder("basicunetplusplus")
class BasicUNetPlusPlusEncoder(Encoder):
    """The contracting path of MONAI's ``BasicUNetPlusPlus``; its nested decoder is the other half.

    Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018.
    With deep supervision, the auxiliary masks are those of the paper: of the shallower U-Nets that
    the network contains, at the image's size.

    Args:
        features: six widths: of five levels and of the last decoder level.
        in_channels: channels of the input.
        options: further arguments of ``BasicUNetPlusPlus``: ``act``, ``norm``, ``bias``,
            ``dropout``, ``upsample``.
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
        network = _unet_plus_plus(in_channels, self._options)
        self.levels = nn.ModuleList(getattr(network, f"conv_{level}_0") for level in range(5))
        initialise_kaiming(self)

    def build_decoder(self, **options: Any) -> Decoder:
        """Return the nested paths of the same ``BasicUNetPlusPlus``, which take no options."""
        refuse_decoder_options("basicunetplusplus", options)
        return _NestedDecoder(_unet_plus_plus(1, self._options), self._options["features"])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of the five levels, fine to coarse."""
        current = image
        features: list[Tensor] = []
        for level in self.levels:
            current = level(current)
            features.append(current)
        return features


class _NestedDecoder(Decoder):
    """One column of nodes after the other; its maps are the uppermost, as large as the image."""

    def __init__(self, network: BasicUNetPlusPlus, features: Sequence[int]) -> None:
        super().__init__([features[0]] * 3 + [features[5]], strides=[1, 1, 1, 1])
        self.columns = nn.ModuleList(
            _Column(getattr(network, f"upcat_{level}_{column}") for level in range(5 - column))
            for column in range(1, 5)
        )
        initialise_kaiming(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels: list[list[Tensor]] = [[feature_map] for feature_map in features]
        outputs: list[Tensor] = []
        for column in self.columns:
            outputs.append(column(levels))
        return outputs


class _Column(nn.Module):
    """Node j of a level joins the level's nodes 0 to j - 1 with node j - 1 of the level below.

    ``forward`` adds the column's maps to ``levels``, and returns the uppermost.
    """

    def __init__(self, nodes: Iterable[nn.Module]) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(nodes)

    def forward(self, levels: list[list[Tensor]]) -> Tensor:
        for level, node in enumerate(self.nodes):
            levels[level].append(node(levels[level + 1][-1], torch.cat(levels[level], dim=1)))
        return levels[0][-1]


def _unet_plus_plus(in_channels: int, options: dict[str, Any]) -> BasicUNetPlusPlus:
    return BasicUNetPlusPlus(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=1,
        deep_supervision=False,
        **options,
    )
