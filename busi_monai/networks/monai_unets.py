"""MONAI's own U-Nets, taken apart into encoder and decoder so that a head fits between them."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from busi_monai.networks.decoder import Decoder, initialise_kaiming
from busi_monai.networks.encoders import Encoder

__all__ = [
    "BasicUNetEncoder",
    "BasicUNetPlusPlusEncoder",
    "DynUNetEncoder",
    "MonaiUNetEncoder",
    "SegResNetEncoder",
]


class _ContractingPath(Encoder):
    """The contracting half of a network of MONAI, whose other half is the decoder.

    ``options`` are the network's, beside the numbers of dimensions and channels.
    """

    registered_as: ClassVar[str]
    network_class: ClassVar[Callable[..., Any]]

    def __init__(
        self, in_channels: int, channels: Sequence[int], strides: Sequence[int], /, **options: Any
    ) -> None:
        super().__init__(in_channels=in_channels, channels=list(channels), strides=list(strides))
        self._network = functools.partial(
            self.network_class, spatial_dims=2, out_channels=1, **options
        )
        self._take(self._network(in_channels=in_channels))
        initialise_kaiming(self)

    def build_decoder(self, **options: Any) -> Decoder:
        """Return the expanding path of the same network, which takes no options."""
        if options:
            raise ValueError(
                f"encoder {self.registered_as!r} brings its own decoder, which takes no "
                f"{', '.join(sorted(options))}; set these among encoder_options or take another "
                "encoder"
            )
        return self._expanding_path(self._network(in_channels=1))

    def _take(self, network: Any) -> None:
        """Keep the layers of the contracting path."""
        raise NotImplementedError

    def _expanding_path(self, network: Any) -> Decoder:
        raise NotImplementedError

    def _enter(self, image: Tensor) -> Tensor:
        """Return what the first level takes."""
        return image

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of all levels, fine to coarse."""
        current = self._enter(image)
        features: list[Tensor] = []
        for down in self.downs:  # type: ignore[union-attr]
            current = down(current)
            features.append(current)
        return features


class _ExpandingPath(Decoder):
    """Blocks that enlarge the coarser map and join it with the encoder's."""

    def __init__(self, ups: Iterable[nn.Module], *stated: list[int], logits: bool = False) -> None:
        super().__init__(*stated, gives_logits=logits)
        self.ups = nn.ModuleList(ups)
        initialise_kaiming(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        current = features[-1]
        outputs: list[Tensor] = []
        for index, up in enumerate(self.ups):
            current = up(current, features[len(features) - 2 - index])
            outputs.append(current)
        return outputs


class BasicUNetEncoder(_ContractingPath):
    """The contracting path of MONAI's ``BasicUNet``.

    Args:
        features: six widths: of five levels and of the last decoder level.
        in_channels: channels of the input.
        options: further arguments of MONAI's network: ``act``, ``norm``, ``bias``, ``dropout``,
            ``upsample``.
    """

    registered_as = "basicunet"
    network_class = BasicUNet

    def __init__(
        self,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        *,
        in_channels: int = 1,
        **options: Any,
    ) -> None:
        if len(features) != 6:
            raise ValueError(f"features must have six entries, got {list(features)}")
        strides = [1, 2, 4, 8, 16]
        super().__init__(in_channels, features[:5], strides, features=tuple(features), **options)
        self.last_width = features[5]

    def _take(self, network: BasicUNet) -> None:
        self.conv_0 = network.conv_0
        self.downs = nn.ModuleList([network.down_1, network.down_2, network.down_3, network.down_4])

    def _expanding_path(self, network: BasicUNet) -> Decoder:
        ups = [network.upcat_4, network.upcat_3, network.upcat_2, network.upcat_1]
        return _ExpandingPath(ups, [*self.channels[3:0:-1], self.last_width], [8, 4, 2, 1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of the five levels, fine to coarse."""
        current = self.conv_0(image)
        features: list[Tensor] = [current]
        for down in self.downs:
            current = down(current)
            features.append(current)
        return features


class BasicUNetPlusPlusEncoder(BasicUNetEncoder):
    """The contracting path of MONAI's ``BasicUNetPlusPlus``; options as of ``BasicUNetEncoder``.

    Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018.
    With deep supervision, the auxiliary masks are those of the paper: of the shallower U-Nets that
    the network contains, at the image's size.
    """

    registered_as = "basicunetplusplus"
    network_class = BasicUNetPlusPlus

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, deep_supervision=False, **options)

    def _take(self, network: BasicUNetPlusPlus) -> None:
        self.levels = nn.ModuleList(getattr(network, f"conv_{level}_0") for level in range(5))

    def _expanding_path(self, network: BasicUNetPlusPlus) -> Decoder:
        return _NestedPath(network, [self.channels[0]] * 3 + [self.last_width])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps of the five levels, fine to coarse."""
        current = image
        features: list[Tensor] = []
        for level in self.levels:
            current = level(current)
            features.append(current)
        return features


class _NestedPath(Decoder):
    """One column of nodes after the other; its maps are the uppermost, as large as the image."""

    def __init__(self, network: BasicUNetPlusPlus, channels: list[int]) -> None:
        super().__init__(channels, strides=[1, 1, 1, 1])
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


class MonaiUNetEncoder(_ContractingPath):
    """The contracting path of MONAI's ``UNet`` with its bottom layer.

    Args:
        widths: ``channels`` of MONAI's ``UNet``; the last is the bottom layer's, of stride 1.
        level_strides: ``strides`` of MONAI's ``UNet``, one less than widths.
        in_channels: channels of the input.
        num_res_units: convolutions of each residual unit, 0 for plain convolutions.
        options: further arguments of ``UNet``: ``act``, ``norm``, ``bias``, ``dropout``, ….
    """

    registered_as = "monai_unet"
    network_class = UNet

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
            in_channels,
            widths,
            [*strides, strides[-1]],
            channels=tuple(widths),
            strides=tuple(level_strides),
            num_res_units=num_res_units,
            **options,
        )

    def _take(self, network: UNet) -> None:
        self.downs = nn.ModuleList(self._halves(network)[0])

    def _expanding_path(self, network: UNet) -> Decoder:
        channels, strides = [*self.channels[-3::-1], 1], [*self.strides[-3::-1], 1]
        return _ConcatenatingPath(self._halves(network)[1], channels, strides, logits=True)

    def _halves(self, network: UNet) -> tuple[list[nn.Module], list[nn.Module]]:
        """Return the nested network's ways down from the top, and up from the bottom."""
        downs: list[nn.Module] = []
        ups: list[nn.Module] = []
        level: Any = network.model
        for _ in self.channels[1:]:
            down, skip, up = level
            downs.append(down)
            ups.insert(0, up)
            level = skip.submodule
        return [*downs, level], ups


class _ConcatenatingPath(_ExpandingPath):
    """Blocks that take both maps as one."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        current = features[-1]
        outputs: list[Tensor] = []
        for index, up in enumerate(self.ups):
            current = up(torch.cat([features[len(features) - 2 - index], current], dim=1))
            outputs.append(current)
        return outputs


class SegResNetEncoder(_ContractingPath):
    """The residual encoder of MONAI's ``SegResNet``.

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

    registered_as = "segresnet"
    network_class = SegResNet

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
            in_channels,
            [init_filters * stride for stride in strides],
            strides,
            init_filters=init_filters,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
            **options,
        )

    def _take(self, network: SegResNet) -> None:
        self.first = network.convInit
        self.dropout = network.dropout if network.dropout_prob is not None else nn.Identity()
        self.downs = network.down_layers

    def _enter(self, image: Tensor) -> Tensor:
        return self.dropout(self.first(image))

    def _expanding_path(self, network: SegResNet) -> Decoder:
        return _AddingPath(network, self.channels[-2::-1], self.strides[-2::-1])


class _AddingPath(Decoder):
    """Adds the enlarged map to the encoder's; the last map is normalised and activated, too."""

    def __init__(self, network: SegResNet, channels: list[int], strides: list[int]) -> None:
        super().__init__(channels, strides)
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


class DynUNetEncoder(_ContractingPath):
    """The contracting path of MONAI's ``DynUNet``.

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

    registered_as = "dynunet"
    network_class = DynUNet

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
            in_channels,
            filters,
            list(itertools.accumulate(level_strides, operator.mul)),
            deep_supervision=False,
            filters=list(filters),
            strides=list(level_strides),
            kernel_size=list(kernels),
            upsample_kernel_size=list(level_strides[1:]),
            **options,
        )

    def _take(self, network: DynUNet) -> None:
        self.downs = nn.ModuleList([network.input_block, *network.downsamples, network.bottleneck])

    def _expanding_path(self, network: DynUNet) -> Decoder:
        return _ExpandingPath(network.upsamples, self.channels[-2::-1], self.strides[-2::-1])
