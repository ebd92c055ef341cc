"""Every encoder by the name that configurations use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from busi_monai.networks.efficientnet_lite import EfficientNetLiteEncoder
from busi_monai.networks.encoders import (
    EfficientNetEncoder,
    Encoder,
    ResNetEncoder,
    UNetEncoder,
)
from busi_monai.networks.library_encoders import SmpEncoder, TimmEncoder
from busi_monai.networks.monai_unets import (
    BasicUNetEncoder,
    BasicUNetPlusPlusEncoder,
    DynUNetEncoder,
    MonaiUNetEncoder,
    SegResNetEncoder,
)

__all__ = ["ENCODERS", "build_encoder", "register_encoder"]

EncoderBuilder = Callable[..., Encoder]

ENCODERS: dict[str, EncoderBuilder] = {
    "basicunet": BasicUNetEncoder,
    "basicunetplusplus": BasicUNetPlusPlusEncoder,
    "dynunet": DynUNetEncoder,
    "efficientnet-b0": partial(EfficientNetEncoder, "efficientnet-b0"),
    "efficientnet-b2": partial(EfficientNetEncoder, "efficientnet-b2"),
    "efficientnet-lite0": partial(EfficientNetLiteEncoder, "efficientnet-lite0"),
    "efficientnet-lite1": partial(EfficientNetLiteEncoder, "efficientnet-lite1"),
    "efficientnet-lite2": partial(EfficientNetLiteEncoder, "efficientnet-lite2"),
    "monai_unet": MonaiUNetEncoder,
    "resnet18": partial(ResNetEncoder, "basic", (2, 2, 2, 2)),
    "resnet34": partial(ResNetEncoder, "basic", (3, 4, 6, 3)),
    "resnet50": partial(ResNetEncoder, "bottleneck", (3, 4, 6, 3)),
    "segresnet": SegResNetEncoder,
    "smp": SmpEncoder,
    "timm": TimmEncoder,
    "unet": UNetEncoder,
}
"""What builds an encoder, given its options."""


def register_encoder(name: str) -> Callable[[EncoderBuilder], EncoderBuilder]:
    """Return a decorator that enters an encoder of your own into ``ENCODERS`` under ``name``."""

    def enter(builder: EncoderBuilder) -> EncoderBuilder:
        if name in ENCODERS:
            raise ValueError(f"an encoder named {name!r} is registered already")
        ENCODERS[name] = builder
        return builder

    return enter


def build_encoder(name: str, /, **options: object) -> Encoder:
    """Build a registered encoder.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
        TypeError: if the encoder has no such option.
    """
    if name not in ENCODERS:
        raise ValueError(
            f"encoder must be one of {', '.join(sorted(ENCODERS))}, got {name!r}. One of your "
            "own: let the configuration import its module, and name its folder in PYTHONPATH"
        )
    try:
        return ENCODERS[name](**options)
    except TypeError as error:
        raise TypeError(f"encoder {name!r} with options {options}: {error}") from error
