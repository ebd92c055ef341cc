"""Encoders of timm and segmentation-models-pytorch: hundreds, by name, never downloaded."""

from __future__ import annotations

import difflib
import importlib
import itertools
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from busi_monai.errors import InputError
from busi_monai.networks.encoders import Encoder

__all__ = ["SmpEncoder", "TimmEncoder", "import_library"]

_DOWNLOADS = ("pretrained", "weights", "pretrained_cfg", "checkpoint_path", "encoder_weights")


def import_library(name: str) -> ModuleType:
    """Import a package of the extra ``encoders``, or raise an InputError on what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"this encoder needs {name} ({error}): pip install 'busi-monai[encoders]'"
        ) from error
    except (RuntimeError, OSError, AttributeError) as error:
        raise InputError(
            f"{name} is installed but cannot be imported ({error}). Expected a torchvision built "
            f"for torch {torch.__version__}: install both from one place, or take an encoder of "
            "busi_monai's own"
        ) from error


class _LibraryEncoder(Encoder):
    """An encoder whose channels and strides are measured on a blank image."""

    def _measure(self, side: int, *, freeze_unused: bool = False) -> None:
        self.eval()
        maps = self.forward(torch.zeros(1, self.in_channels, side, side))
        if freeze_unused:
            weights = list(self.parameters())
            total = torch.stack([feature_map.sum() for feature_map in maps]).sum()
            gradients = torch.autograd.grad(total, weights, allow_unused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.requires_grad_(gradient is not None)
        self.train()
        self.channels = [feature_map.shape[1] for feature_map in maps]
        self.strides = [side // feature_map.shape[2] for feature_map in maps]
        rising = all(fine < coarse for fine, coarse in itertools.pairwise(self.strides))
        if len(maps) < 2 or not rising:
            raise InputError(
                f"expected feature maps that get smaller, found strides {self.strides}: take a "
                "hierarchical network (a ResNet, ConvNeXt, EfficientNet, MiT), or out_indices"
            )

    def decoder_defaults(self) -> dict[str, Any]:
        """Return one level for each finer map, and one up to half the image's size."""
        levels = len(self.strides) - 1 + (self.strides[0] > 2)
        widths = (96, 64, 48, 32, 32, 32)
        return {"channels": widths[:levels], "upsample": "bilinear"}


class SmpEncoder(_LibraryEncoder):
    """An encoder of segmentation-models-pytorch; needs the extra ``encoders``.

    Weights come from ``load_encoder_weights`` alone. What lies behind the coarsest map, such as
    the last convolution of an EfficientNet, is kept for its names, but does not train.

    Args:
        name: of ``segmentation_models_pytorch.encoders.get_encoder_names()``.
        in_channels: channels of the input.
        depth: number of halvings, 3 to 5.
        options: further arguments of ``get_encoder``: ``output_stride``.

    Raises:
        InputError: if the package is missing, the name is unknown or names a download, or the maps
            do not get smaller.
    """

    published_as = "the names of segmentation-models-pytorch's encoder (torchvision's for a ResNet)"

    def __init__(
        self, name: str = "resnet34", *, in_channels: int = 1, depth: int = 5, **options: Any
    ) -> None:
        _refuse_downloads("smp", name, options)
        smp = import_library("segmentation_models_pytorch")
        names = smp.encoders.get_encoder_names()
        if name.startswith("tu-"):
            raise InputError(
                f"encoder_options name {name!r} is a network of timm: take encoder timm with the "
                f"name {name.removeprefix('tu-')}"
            )
        if name not in names:
            raise InputError(_unknown("smp", name, names))
        super().__init__(in_channels=in_channels, channels=[], strides=[])
        self.model = smp.encoders.get_encoder(
            name, in_channels=in_channels, depth=depth, weights=None, **options
        )
        # the first map is the image itself; a transformer has an empty one for stride 2
        self.kept = [i for i, width in enumerate(self.model.out_channels) if i > 0 and width > 0]
        self._measure(side=64, freeze_unused=True)

    def own_names(self, published: str) -> list[str]:
        """Return the name below the library's network."""
        return [published, f"model.{published}"]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps from stride 2 or 4 on, fine to coarse."""
        maps = self.model(image)
        features: list[Tensor] = []
        for index in self.kept:
            features.append(maps[index])
        return features


class TimmEncoder(_LibraryEncoder):
    """A network of timm as feature extractor; needs the extra ``encoders``.

    Weights come from ``load_encoder_weights`` alone.

    Args:
        name: of ``timm.list_models()``, ``convnext_tiny``.
        in_channels: channels of the input.
        options: further arguments of ``timm.create_model``: ``drop_path_rate``, ``out_indices``,
            ``img_size`` where the network is made for one size (pixels, or [H, W]).

    Raises:
        InputError: if the package is missing, the name is unknown or names a download, or the maps
            do not get smaller.
    """

    published_as = "the names of timm's network"

    def __init__(
        self, name: str = "convnext_tiny", *, in_channels: int = 1, **options: Any
    ) -> None:
        _refuse_downloads("timm", name, options)
        timm = import_library("timm")
        if not timm.is_model(name):
            raise InputError(_unknown("timm", name, timm.list_models()))
        super().__init__(in_channels=in_channels, channels=[], strides=[])
        try:
            self.model = timm.create_model(
                name, features_only=True, in_chans=in_channels, pretrained=False, **options
            )
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise InputError(f"timm's {name} gives no feature maps ({error})") from error
        self.channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        self._measure(side=_probe_size(timm, name, options))

    def own_names(self, published: str) -> list[str]:
        """Return the names that timm's feature extractors give: flattened, or one level deeper."""
        flattened = published.replace(".", "_", 1)
        return [
            published,
            *(f"model.{name}" for name in (published, flattened, f"model.{published}")),
        ]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps, fine to coarse."""
        features: list[Tensor] = []
        for found in self.model(image):
            features.append(found.permute(0, 3, 1, 2) if self.channels_last else found)
        return features


def _probe_size(timm: ModuleType, name: str, options: dict[str, Any]) -> int:
    """Return the side of a blank image that the network takes, in pixels."""
    size = options.get("img_size")
    if size is not None:
        return int(size if isinstance(size, int) else min(size))
    settings = timm.get_pretrained_cfg(name)
    fixed = settings is not None and getattr(settings, "fixed_input_size", False)
    return int(settings.input_size[-1]) if fixed else 64


def _refuse_downloads(encoder: str, name: str, options: dict[str, Any]) -> None:
    asked = [f"{option}: {options[option]}" for option in _DOWNLOADS if options.get(option)]
    if asked:
        raise InputError(
            f"encoder_options {{{asked[0]}}} of {encoder} would download weights, which never "
            "happens here: download the file yourself, then set encoder_weights to its path"
        )
    if ":" in name or "/" in name:
        raise InputError(
            f"encoder_options name {name!r} of {encoder} is an address, which is never fetched: "
            "give the network's own name, and encoder_weights for a file of weights"
        )


def _unknown(encoder: str, name: str, known: Iterable[str]) -> str:
    near: Sequence[str] = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"near to it: {', '.join(near)}" if near else "see the library's own list"
    return f"encoder_options name must be a network of {encoder}, got {name!r}; {hint}"
