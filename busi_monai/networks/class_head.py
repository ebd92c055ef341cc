"""The class head: the bottleneck pooled to one vector, and layers that tell the class from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from busi_monai.networks.decoder import initialise_kaiming

__all__ = ["POOLINGS", "ClassHead"]

EMPTY_LESION = 1e-3
"""Lesion probability that ``mask`` pooling adds everywhere, so that no lesion means the average."""


class AveragePooling(nn.Module):
    """The mean over all places.

    Every pooling takes the bottleneck (N, C, h, w) and the mask logits (N, 1, H, W), which may be
    missing where they are not needed, and returns (N, ``vectors`` C).
    """

    vectors = 1
    needs_mask = False

    def __init__(self, in_channels: int) -> None:
        super().__init__()

    def forward(self, bottleneck: Tensor, mask_logits: Tensor | None = None) -> Tensor:
        return bottleneck.mean(dim=(2, 3))


class AverageMaxPooling(AveragePooling):
    """The mean and the greatest value of each channel over all places."""

    vectors = 2

    def forward(self, bottleneck: Tensor, mask_logits: Tensor | None = None) -> Tensor:
        return torch.cat([bottleneck.mean(dim=(2, 3)), bottleneck.amax(dim=(2, 3))], dim=1)


class MaskPooling(AveragePooling):
    """The mean over all places, and the mean over the lesion that the network itself predicts.

    A place weighs as much as the mean lesion probability of the pixels it stands for, plus
    ``EMPTY_LESION``: the less lesion is predicted, the nearer the second mean comes to the first.
    The probabilities are detached, so that the class loss cannot bend the mask to its ends.
    """

    vectors = 2
    needs_mask = True

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels)
        self.empty = EMPTY_LESION  # TorchScript reads no globals

    def forward(self, bottleneck: Tensor, mask_logits: Tensor | None = None) -> Tensor:
        if mask_logits is None:
            raise ValueError("pooling by the mask needs the mask logits")
        lesion = torch.sigmoid(mask_logits.detach().float())
        places = [bottleneck.shape[2], bottleneck.shape[3]]
        weights = interpolate(lesion, size=places, mode="area") + self.empty
        inside = (bottleneck * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
        return torch.cat([bottleneck.mean(dim=(2, 3)), inside], dim=1)


class AttentionPooling(AveragePooling):
    """The mean over all places, and a mean whose weights a 1×1 convolution learns.

    The weights of all places add up to 1 (softmax), as in attention-based multiple instance
    learning (Ilse et al., ICML 2018), with a linear score. A bias would cancel out.
    """

    vectors = 2

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels)
        self.score = nn.Conv2d(in_channels, 1, kernel_size=1, bias=False)

    def forward(self, bottleneck: Tensor, mask_logits: Tensor | None = None) -> Tensor:
        weights = self.score(bottleneck).float().flatten(2).softmax(dim=2)
        attended = (bottleneck.flatten(2) * weights).sum(dim=2)
        return torch.cat([bottleneck.mean(dim=(2, 3)), attended], dim=1)


POOLINGS: dict[str, type[AveragePooling]] = {
    "average": AveragePooling,
    "average_max": AverageMaxPooling,
    "mask": MaskPooling,
    "attention": AttentionPooling,
}
"""How a class head makes one vector of the bottleneck's channels, by the configurations' name."""


class ClassHead(nn.Module):
    """Pooling, hidden layers with ReLU and dropout, one logit for each class.

    Args:
        in_channels: channels of the bottleneck (N, in_channels, h, w).
        classes: number of logits.
        hidden: widths of the hidden layers; empty for a linear head.
        dropout: probability after each hidden layer, or one for all; a linear head takes the first
            one, before its layer.
        pooling: a name of ``POOLINGS``; all but ``average`` give the first layer twice as many
            values.

    Raises:
        ValueError: if the numbers of hidden layers and dropouts differ, or there is no such
            pooling.

    Examples:
        >>> head = ClassHead(16, 3, hidden=(), dropout=0.2, pooling="mask")
        >>> head(torch.rand(2, 16, 4, 6), mask_logits=torch.randn(2, 1, 64, 96)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        hidden: Sequence[int] = (512, 256),
        dropout: float | Sequence[float] = (0.5, 0.3),
        pooling: str = "average",
    ) -> None:
        super().__init__()
        rates = [dropout] * max(len(hidden), 1) if isinstance(dropout, int | float) else dropout
        if hidden and len(rates) != len(hidden):
            raise ValueError(
                f"dropout must be one number or one for each of the {len(hidden)} hidden layers, "
                f"got {list(rates)}"
            )
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.pooling = POOLINGS[pooling](in_channels)
        layers: list[nn.Module] = [] if hidden else [nn.Dropout(rates[0] if rates else 0.0)]
        widths = [in_channels * self.pooling.vectors, *hidden]
        for before, width, rate in zip(widths, hidden, rates, strict=False):
            layers += [nn.Linear(before, width), nn.ReLU(inplace=True), nn.Dropout(rate)]
        output = nn.Linear(widths[-1], classes)
        self.layers = nn.Sequential(*layers, output)
        initialise_kaiming(self, outputs=[output, *self.pooling.modules()])

    def forward(self, bottleneck: Tensor, mask_logits: Tensor | None = None) -> Tensor:
        """Return (N, classes) logits for the bottleneck (N, in_channels, h, w).

        The pooling ``mask`` needs the (N, 1, H, W) logits of the network's own mask, too.
        """
        return self.layers(self.pooling(bottleneck, mask_logits))
