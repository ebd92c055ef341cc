"""``MultiTaskUNet``: one encoder, a decoder for the lesion's mask, a head for the class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from busi_monai.networks.class_head import POOLINGS, ClassHead
from busi_monai.networks.decoder import Decoder, initialise_kaiming
from busi_monai.networks.registry import build_encoder

__all__ = ["HeadOutput", "MultiTaskUNet"]


class MultiTaskUNet(nn.Module):
    """A U-Net whose pooled bottleneck also tells the class of the whole image.

    Without arguments it is the classic multitask U-Net: double convolutions of 64 to 1024 channels,
    head 1024→512→256→3.

    Args:
        encoder: a name of ``ENCODERS``.
        classes: number of classes, or their names; 0 or none for no class head.
        segmentation: whether there is a decoder with its mask head at all.
        encoder_options: keyword arguments of the encoder.
        decoder_channels: channels of the decoder's levels, coarse to fine; None takes the encoder's
            proposal. If the last level is smaller than the image, the logits are enlarged
            bilinearly, which costs a CPU much less than a further level.
        decoder_options: further keyword arguments of ``UNetDecoder``: ``upsample``, ``skips``,
            ``convolutions``, ``bias``, ``norm``.
        attention: whether gates weigh the encoder's finer maps (Oktay et al., "Attention U-Net",
            MIDL 2018).
        head_channels: hidden layers of the class head; empty for a linear one.
        dropout: probability after each hidden layer, or one for all; with a linear head, before it.
        pooling: how the class head makes one vector of the bottleneck, a name of ``POOLINGS``.
        deep_supervision: whether training also gives mask logits of the coarser decoder levels.

    Attributes:
        stride: height and width of the input must be divisible by it.
        classes: number of class logits.

    Shapes:
        ``forward`` takes (N, 1, H, W) float and returns a dict of the heads it has:
        ``seg`` (N, 1, H, W) logits of a lesion, ``cls`` (N, classes) logits; both float32 whatever
        the autocast. In training with deep supervision, ``seg_aux1``, ``seg_aux2``, … hold
        (N, 1, h, w) logits at the decoder's coarser levels, from fine to coarse.

    Raises:
        ValueError: if there is no head at all, an option does not fit the encoder, or the class
            head is to pool by a mask that the network does not have; from ``forward``, if the size
            is not divisible by ``stride``.

    Examples:
        >>> network = MultiTaskUNet("unet", encoder_options={"widths": [4, 8, 16]}).eval()
        >>> outputs = network(torch.rand(2, 1, 48, 64))
        >>> outputs["seg"].shape, outputs["cls"].shape
        (torch.Size([2, 1, 48, 64]), torch.Size([2, 3]))
        >>> network.stride
        4
    """

    __constants__ = ("has_segmentation", "has_classification", "deep_supervision", "in_channels")

    def __init__(
        self,
        encoder: str = "unet",
        *,
        classes: int | Sequence[str] = 3,
        segmentation: bool = True,
        encoder_options: Mapping[str, Any] | None = None,
        decoder_channels: Sequence[int] | None = None,
        decoder_options: Mapping[str, Any] | None = None,
        attention: bool = False,
        head_channels: Sequence[int] = (512, 256),
        dropout: float | Sequence[float] = (0.5, 0.3),
        pooling: str = "average",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.classes = classes if isinstance(classes, int) else len(classes)
        if not segmentation and not self.classes:
            raise ValueError("segmentation=False and classes=0 leave the network without a head")
        self.encoder = build_encoder(encoder, **dict(encoder_options or {}))
        self.in_channels = self.encoder.in_channels
        self.stride = max(self.encoder.strides)
        self.has_segmentation = segmentation
        self.has_classification = self.classes > 0
        self.deep_supervision = deep_supervision and segmentation
        self.decoder: nn.Module = nn.Identity()
        self.seg_head: nn.Module = nn.Identity()
        self.aux_heads = nn.ModuleList()
        self.bottleneck = nn.Identity()  # names what the class head sees, for tools that look there
        self.cls_head: nn.Module = nn.Identity()
        if segmentation:
            options = dict(decoder_options or {})
            if decoder_channels is not None:
                options["channels"] = decoder_channels
            if attention:
                options["attention"] = True
            self._build_mask_heads(self.encoder.build_decoder(**options))
        if self.has_classification:
            head = ClassHead(
                self.encoder.channels[-1],
                self.classes,
                hidden=head_channels,
                dropout=dropout,
                pooling=pooling,
            )
            if head.pooling.needs_mask and not segmentation:
                raise ValueError(
                    f"pooling={pooling!r} weighs by the lesion that the network itself predicts, "
                    "and segmentation=False (seg_weight=0) leaves it without a mask head; choose "
                    f"another of {', '.join(POOLINGS)}"
                )
            self.cls_head = head

    def _build_mask_heads(self, decoder: Decoder) -> None:
        self.decoder = decoder
        *coarser, finest = decoder.channels
        if not decoder.gives_logits:
            self.seg_head = nn.Conv2d(finest, 1, kernel_size=1)
        if decoder.strides[-1] > 1:
            scale = decoder.strides[-1]
            enlarge = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
            self.seg_head = nn.Sequential(self.seg_head, _Float32(), enlarge)
        if self.deep_supervision:
            self.aux_heads.extend(
                nn.Conv2d(channels, 1, kernel_size=1) for channels in reversed(coarser)
            )
        for head in (self.seg_head, self.aux_heads):
            initialise_kaiming(head, outputs=list(head.modules()))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the logits of each head by its name; see the class."""
        if not torch.jit.is_scripting():
            self._check_size(image)
        if self.in_channels > 1:
            image = image.expand(-1, self.in_channels, -1, -1)
        features = self.encoder(image)
        outputs: dict[str, Tensor] = {}
        if self.has_segmentation:
            maps = self.decoder(features)
            outputs["seg"] = self.seg_head(maps[-1]).float()
            if self.deep_supervision and self.training:
                for index, head in enumerate(self.aux_heads):
                    outputs["seg_aux" + str(index + 1)] = head(maps[len(maps) - 2 - index]).float()
        if self.has_classification:
            logits = self.cls_head(self.bottleneck(features[-1]), outputs.get("seg"))
            outputs["cls"] = logits.float()
        return outputs

    @torch.jit.unused
    def _check_size(self, image: Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        height, width = image.shape[-2:]
        if height % self.stride or width % self.stride:
            fitting = [math.ceil(side / self.stride) * self.stride for side in (height, width)]
            raise ValueError(
                f"Wrong input shape height={height}, width={width}. Expected image height and "
                f"width divisible by {self.stride}. Consider padding your images to shape "
                f"({fitting[0]}, {fitting[1]})."
            )


class HeadOutput(nn.Module):
    """A network that returns the tensor of one head, ``seg`` or ``cls``, instead of a dict."""

    def __init__(self, network: nn.Module, head: str = "seg") -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the one head."""
        return self.network(image)[self.head]


class _Float32(nn.Module):
    """Leaves autocast's half precision, so that enlarged logits are not rounded twice."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.float()
