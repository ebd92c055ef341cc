"""MONAI's DynUNet (the network of nnU-Net), taken apart into encoder and decoder."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn

from busi_monai.networks.blocks import initialise_kaiming
from busi_monai.networks.decoder import Decoder
from busi_monai.networks.encoders import Encoder, refuse_decoder_options, register_encoder

__all__ = ["DynUNetEncoder"]


@register_encoder("dynunet")
class DynUNetEncoder(Encoder):
    """The contracting path of MONAI's ``DynUNet``; its decoder is that network's other half.

    Isensee et al., "nnU-Net", Nature Methods 2021: convolutions with stride instead of pooling,
    instance normalisation, leaky ReLU; widths doubled up to 512, as nnU-Net does for 2-D images.

    Args:
        filters: channels of each level, three at least.
        level_strides: ``strides`` of ``DynUNet``, by how much each level is smaller than the one
            before; with a first entry above 1, the mask's logits are enlarged.
        kernel_size: of the convolutions, one for all or one for each level.
        in_channels: channels of the input.
        options: further arguments of ``DynUNet``: ``res_block``, ``norm_name``, ``act_name``,
            ``dropout``, ``trans_bias``.
    """

    def __init__(
        self,
        filters: Sequence[int] = (32, 64, 128, 256, 512, 512),
        level_strides: Sequence[int] = (1, 2, 2, 2, 2, 2),
        *,
        kernel_size: int | Sequence[int] = 3,
        in_channels: int = 1,
        **options: Any,
    ) -> None:
        kernels = [kernel_size] * len(filters) if isinstance(kernel_size, int) else kernel_size
        if len(filters) < 3 or not len(filters) == len(level_strides) == len(kernels):
            raise ValueError(
                "filters, level_strides and kernel_size must name the same three or more levels, "
                f"got {list(filters)}, {list(level_strides)} and {list(kernels)}"
            )
        super().__init__(
            in_channels=in_channels,
            channels=list(filters),
            strides=list(itertools.accumulate(level_strides, operator.mul)),
        )
        self._options = {
            **options,
            "filters": list(filters),
            "strides": list(level_strides),
            "kernel_size": list(kernels),
            "upsample_kernel_size": list(level_strides[1:]),
        }
        network = _dynunet(in_channels, self._options)
        self.downs = nn.ModuleList([network.input_block, *network.downsamples, network.bottleneck])
        initialise_kaiming(self)

    def build_decoder(self, **options: Any) -> Decoder:
        """Return the expanding path of the same ``DynUNet``, which takes no options."""
        refuse_decoder_options("dynunet", options)
        return _DynUNetDecoder(_dynunet(1, self._options), self.channels, self.strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of all levels, fine to coarse."""
        current = image
        features: list[Tensor] = []
        for down in self.downs:
            current = down(current)
            features.append(current)
        return features


class _DynUNetDecoder(Decoder):
    def __init__(self, network: DynUNet, channels: list[int], strides: list[int]) -> None:
        super().__init__(channels[-2::-1], strides[-2::-1])
        self.ups = network.upsamples
        initialise_kaiming(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        current = features[-1]
        outputs: list[Tensor] = []
        for index, up in enumerate(self.ups):
            current = up(current, features[len(features) - 2 - index])
            outputs.append(current)
        return outputs


def _dynunet(in_channels: int, options: dict[str, Any]) -> DynUNet:
    return DynUNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=1,
        deep_supervision=False,
        **options,
    )
