"""MONAI's SegResNet, taken apart into encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from busi_monai.networks.blocks import initialise_kaiming
from busi_monai.networks.decoder import Decoder
from busi_monai.networks.encoders import Encoder, refuse_decoder_options, register_encoder

__all__ = ["SegResNetEncoder"]


@register_encoder("segresnet")
class SegResNetEncoder(Encoder):
    """The residual encoder of MONAI's ``SegResNet``; its decoder is that network's other half.

    Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", BrainLes 2018,
    whose number of first filters is the default; without the autoencoder's branch.

    Args:
        init_filters: channels of the first level, doubled from one to the next; a multiple of the
            8 groups of the default normalisation.
        blocks_down: residual blocks of each level.
        blocks_up: residual blocks of each decoder level, one level less.
        in_channels: channels of the input.
        options: further arguments of ``SegResNet``: ``act``, ``norm``, ``dropout_prob``,
            ``upsample_mode``.
    """

    def __init__(
        self,
        init_filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        *,
        in_channels: int = 1,
        **options: Any,
    ) -> None:
        if len(blocks_up) != len(blocks_down) - 1:
            raise ValueError(
                f"blocks_up must have one entry less than blocks_down {list(blocks_down)}, got "
                f"{list(blocks_up)}"
            )
        strides = [2**level for level in range(len(blocks_down))]
        super().__init__(
            in_channels=in_channels,
            channels=[init_filters * stride for stride in strides],
            strides=strides,
        )
        self._options = {
            **options,
            "init_filters": init_filters,
            "blocks_down": tuple(blocks_down),
            "blocks_up": tuple(blocks_up),
        }
        network = _segresnet(in_channels, self._options)
        self.first = network.convInit
        self.dropout = network.dropout if network.dropout_prob is not None else nn.Identity()
        self.downs = network.down_layers
        initialise_kaiming(self)

    def build_decoder(self, **options: Any) -> Decoder:
        """Return the decoder of the same ``SegResNet``, which takes no options."""
        refuse_decoder_options("segresnet", options)
        return _SegResNetDecoder(_segresnet(1, self._options), self.channels, self.strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of all levels, fine to coarse."""
        current = self.dropout(self.first(image))
        features: list[Tensor] = []
        for down in self.downs:
            current = down(current)
            features.append(current)
        return features


class _SegResNetDecoder(Decoder):
    """Adds the enlarged map to the encoder's; the last map is normalised and activated, too."""

    def __init__(self, network: SegResNet, channels: list[int], strides: list[int]) -> None:
        super().__init__(channels[-2::-1], strides[-2::-1])
        self.enlargements = network.up_samples
        blocks = list(network.up_layers)
        norm, activation, _ = network.conv_final
        self.blocks = nn.ModuleList([*blocks[:-1], nn.Sequential(blocks[-1], norm, activation)])
        initialise_kaiming(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        current = features[-1]
        outputs: list[Tensor] = []
        for index, (enlarge, block) in enumerate(zip(self.enlargements, self.blocks)):  # noqa: B905
            current = block(enlarge(current) + features[len(features) - 2 - index])
            outputs.append(current)
        return outputs


def _segresnet(in_channels: int, options: dict[str, Any]) -> SegResNet:
    return SegResNet(
        spatial_dims=2, in_channels=in_channels, out_channels=1, use_conv_final=True, **options
    )
