"""Encoders: from a grey image to feature maps, fine to coarse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from busi_monai.networks.decoder import (
    Decoder,
    Normalisation,
    UNetDecoder,
    convolution_block,
    initialise_kaiming,
)

__all__ = ["EfficientNetEncoder", "Encoder", "ResNetEncoder", "UNetEncoder"]


class Encoder(nn.Module):
    """What every encoder states and returns.

    ``forward`` takes (N, in_channels, H, W) and returns one feature map
    (N, channels[i], H / strides[i], W / strides[i]) for each entry of ``channels``; the last one is
    the bottleneck that the classification head pools.

    Attributes:
        in_channels: 1 for a grey image, 3 where pretrained weights want three.
        channels: channels of the feature maps, fine to coarse.
        strides: by how much each is smaller than the image.
        published_as: whose files of pretrained weights fit, for messages.
        imagenet_package: the package that installs its ImageNet weights; empty if there is none.
    """

    published_as = "the names that this encoder has in a run"
    imagenet_package = ""

    def __init__(self, *, in_channels: int, channels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = channels
        self.strides = strides

    def build_decoder(self, **options: Any) -> Decoder:
        """Return the decoder over these maps; ``options`` as of ``UNetDecoder``."""
        return UNetDecoder(self.channels, self.strides, **{**self.decoder_defaults(), **options})

    def decoder_defaults(self) -> dict[str, Any]:
        """Return the arguments of ``UNetDecoder`` where none are given."""
        channels = (96, 64, 48, 32)[1 - len(self.strides) :]
        return {"channels": channels, "upsample": "bilinear"}

    def own_names(self, published: str) -> list[str]:
        """Return what a tensor of a file of pretrained weights may be called in this encoder."""
        return [published]


class UNetEncoder(Encoder):
    """The contracting path of the U-Net: double convolutions between 2×2 max poolings.

    Args:
        widths: channels of each level; the stride doubles from one to the next.
        in_channels: channels of the input.
        bias, convolutions, norm: of each level, as ``convolution_block`` takes them.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        *,
        in_channels: int = 1,
        bias: bool = False,
        convolutions: int = 2,
        norm: Normalisation = "batch",
    ) -> None:
        if len(widths) < 2:
            raise ValueError(f"widths must name at least two levels, got {list(widths)}")
        super().__init__(
            in_channels=in_channels,
            channels=list(widths),
            strides=[2**level for level in range(len(widths))],
        )
        self.levels = nn.ModuleList(
            convolution_block(before, width, convolutions=convolutions, bias=bias, norm=norm)
            for before, width in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        initialise_kaiming(self)

    def decoder_defaults(self) -> dict[str, Any]:
        """Return those by which the expanding path mirrors the contracting one."""
        return {"channels": self.channels[-2::-1], "upsample": "transpose"}

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of all levels, fine to coarse."""
        features: list[Tensor] = []
        current = image
        for index, level in enumerate(self.levels):
            if index > 0:
                current = self.pool(current)
            current = level(current)
            features.append(current)
        return features


class ResNetEncoder(Encoder):
    """MONAI's 2-D ResNet (He et al., CVPR 2016) up to its last block, named as in torchvision.

    The shortcuts are of type B without bias: MONAI's type A cuts the gradient and does not export.

    Args:
        block: ``basic`` or ``bottleneck``.
        layers: blocks of each of the four stages.
        widths: planes of each stage; a bottleneck block gives four times as many channels.
        in_channels: channels of the input.
    """

    published_as = "the names of torchvision's ResNet"

    def __init__(
        self,
        block: str,
        layers: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        in_channels: int = 1,
    ) -> None:
        expansion = 4 if block == "bottleneck" else 1
        super().__init__(
            in_channels=in_channels,
            channels=[widths[0], *(width * expansion for width in widths)],
            strides=[2, 4, 8, 16, 32],
        )
        resnet = ResNet(
            block=block,
            layers=list(layers),
            block_inplanes=list(widths),
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        self.conv1, self.bn1, self.act = resnet.conv1, resnet.bn1, resnet.act
        self.maxpool = resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the stem and the four stages, at strides 2, 4, 8, 16 and 32."""
        stem = self.act(self.bn1(self.conv1(image)))
        first = self.layer1(self.maxpool(stem))
        second = self.layer2(first)
        third = self.layer3(second)
        return [stem, first, second, third, self.layer4(third)]


class EfficientNetEncoder(Encoder):
    """MONAI's EfficientNet (Tan and Le, ICML 2019) up to its last block, without its own head.

    Args:
        name: ``efficientnet-b0`` to ``efficientnet-b7``.
        in_channels: channels of the input.
        drop_connect: greatest probability with which a residual block is skipped in training, that
            of the last block; MONAI's is 0.2.
    """

    published_as = (
        "the names of efficientnet_pytorch, whose files MONAI uses; those of torchvision and timm "
        "belong to networks with other padding: take encoder timm with the name tf_efficientnet_b0"
    )

    def __init__(self, name: str, *, in_channels: int = 1, drop_connect: float = 0.2) -> None:
        super().__init__(in_channels=in_channels, channels=[], strides=[2, 4, 8, 16, 32])
        efficientnet = EfficientNetBN(
            name, pretrained=False, spatial_dims=2, in_channels=in_channels, num_classes=1
        )
        self._conv_stem_padding = efficientnet._conv_stem_padding
        self._conv_stem = efficientnet._conv_stem
        self._bn0 = efficientnet._bn0
        self._swish = nn.SiLU(inplace=True)
        self._blocks = efficientnet._blocks
        for module in self._blocks.modules():
            if hasattr(module, "_swish"):
                # MONAI's memory-saving swish neither scripts nor exports; this one is as lean.
                module._swish = nn.SiLU(inplace=True)
                module.drop_connect_rate *= drop_connect / efficientnet.drop_connect_rate
        self._ends = [end - 1 for end in efficientnet.extract_stacks]
        self.channels = [self._blocks[end][-1]._project_conv.out_channels for end in self._ends]

    def own_names(self, published: str) -> list[str]:
        """Return the name with the stage that MONAI puts before a block's number."""
        before, blocks, block = published.partition("_blocks.")
        stages = range(len(self._blocks)) if blocks and not before else ()
        return [published, *(f"_blocks.{stage}.{block}" for stage in stages)]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the last feature map of each resolution, at strides 2, 4, 8, 16 and 32."""
        features: list[Tensor] = []
        current = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(image))))
        for index, block in enumerate(self._blocks):
            current = block(current)
            if index in self._ends:
                features.append(current)
        return features
