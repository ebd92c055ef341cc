"""Building blocks that encoders, decoders and heads share."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.utils import get_norm_layer
from torch import nn

__all__ = ["Normalisation", "convolution_block", "initialise_kaiming"]

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
    """Return ``convolutions`` times 3×3 convolution, normalisation, ReLU, size kept.

    With two, this is the double convolution of the U-Net (Ronneberger et al., MICCAI 2015) with
    padding and batch normalisation.

    Args:
        in_channels: channels of the input (N, in_channels, H, W).
        out_channels: channels of the output (N, out_channels, H, W).
        convolutions: how many, at least one.
        bias: whether the convolutions have biases, which a normalisation after them takes out.
        norm: the normalisation, by MONAI's name.
    """
    layers: list[nn.Module] = []
    for index in range(convolutions):
        layers += [
            nn.Conv2d(
                in_channels if index == 0 else out_channels,
                out_channels,
                kernel_size=3,
                padding=1,
                bias=bias,
            ),
            get_norm_layer(name=norm, spatial_dims=2, channels=out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def initialise_kaiming(module: nn.Module, *, outputs: Sequence[nn.Module] = ()) -> None:
    """Draw a module's weights as He et al. (ICCV 2015) propose for ReLU networks.

    Normal distribution with the variance ``2 / fan_in`` (``1 / fan_in`` for ``outputs``, which no
    ReLU follows); biases 0; normalisations start as the identity.

    Args:
        module: whose convolutions, linear layers and normalisations are set, in place.
        outputs: layers of it that give logits.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if any(layer is output for output in outputs):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
            else:
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and layer.affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
