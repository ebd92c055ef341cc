"""``TwoStageNetwork``: find the lesion in a small image, tell its class from a large crop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from busi_monai.cases import CLASSES, NORMAL
from busi_monai.settings import NORMALISATIONS, WHEN_NO_LESION

__all__ = ["NO_LESION_NORMAL", "TwoStageNetwork", "crop_boxes", "lesion_boxes"]

NO_LESION_NORMAL = 0.98
"""Probability of ``normal`` where no lesion is found, with ``when_no_lesion="normal"``."""

GRID = 64
OVERSAMPLING = 2


class TwoStageNetwork(nn.Module):
    """A segmentation network, and a classifier that sees the lesion it finds at full resolution.

    The input is large, near the images' native size. It is resized for the segmenter; the box of
    the largest lesion found, with a margin, is cropped from the large input for the classifier.
    No gradient goes from the class to the mask: the two are trained one after the other.

    Args:
        segmenter: gives ``seg`` (N, 1, h, w) logits in a dict.
        classifier: gives ``cls`` (N, C) logits in a dict.
        segmenter_size: (height, width) in pixels of the segmenter's input.
        crop_size: (height, width) in pixels of the classifier's input.
        margin: part of the box's sides that is added on each side, as in
            ``busi_monai.settings.LesionCrop``.
        when_no_lesion: ``whole``: the whole image is classified; ``normal``: ``normal`` has
            probability ``NO_LESION_NORMAL`` (before the temperature), the others share the rest.
        classes: names of the classifier's classes, in order.
        mask_threshold: lesion probability from which a pixel counts for the box.
        segmenter_normalisation: ``unit`` or ``zscore``, as the segmenter was trained; the input
            itself is in [0, 1].
        classifier_normalisation: the same for the classifier.

    Shapes:
        ``forward`` takes (N, 1, H, W) float in [0, 1] and returns ``seg`` (N, 1, H, W) and ``cls``
        (N, C) float32 logits.

    Raises:
        ValueError: if an option is wrong or a size does not fit its network.

    Examples:
        >>> from busi_monai.networks.multitask import MultiTaskUNet
        >>> options = {"encoder_options": {"widths": [4, 8]}, "head_channels": []}
        >>> network = TwoStageNetwork(
        ...     MultiTaskUNet("unet", classes=0, **options),
        ...     MultiTaskUNet("unet", segmentation=False, **options),
        ...     segmenter_size=(32, 32),
        ...     crop_size=(24, 24),
        ... ).eval()
        >>> outputs = network(torch.rand(2, 1, 96, 128))
        >>> outputs["seg"].shape, outputs["cls"].shape
        (torch.Size([2, 1, 96, 128]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        segmenter: nn.Module,
        classifier: nn.Module,
        segmenter_size: Sequence[int] = (256, 256),
        crop_size: Sequence[int] = (224, 224),
        margin: float = 0.25,
        when_no_lesion: str = "whole",
        *,
        classes: Sequence[str] = CLASSES,
        mask_threshold: float = 0.5,
        segmenter_normalisation: str = "unit",
        classifier_normalisation: str = "unit",
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.classifier = classifier
        self.segmenter_size = _size("segmenter_size", segmenter_size, segmenter)
        self.crop_size = _size("crop_size", crop_size, classifier)
        if margin < 0:
            raise ValueError(f"margin must be at least 0, got {margin}")
        if not 0 < mask_threshold < 1:
            raise ValueError(f"mask_threshold must lie between 0 and 1, got {mask_threshold}")
        for name, value, allowed in (
            ("when_no_lesion", when_no_lesion, WHEN_NO_LESION),
            ("segmenter_normalisation", segmenter_normalisation, NORMALISATIONS),
            ("classifier_normalisation", classifier_normalisation, NORMALISATIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        self.margin = float(margin)
        self.classes = len(classes)
        self.stride = 1
        self.whole_without_lesion = when_no_lesion == "whole"
        self.mask_logit = math.log(mask_threshold / (1 - mask_threshold))
        self.zscore_segmenter = segmenter_normalisation == "zscore"
        self.zscore_classifier = classifier_normalisation == "zscore"
        if getattr(classifier, "classes", self.classes) != self.classes:
            raise ValueError(
                f"the classifier has {classifier.classes} classes, expected {', '.join(classes)}"
            )
        self.no_lesion_logits = [0.0] if self.whole_without_lesion else _confident_normal(classes)

    def forward(self, image: Tensor, lesion: Tensor | None = None) -> dict[str, Tensor]:
        """Return the logits of both heads; see the class.

        With ``lesion``, (N, 1, H, W) true masks of 0 and 1, all −1 where an image has none, the
        boxes are those of the true masks. The mask logits are the predicted ones all the same.
        """
        image = image.float()
        small = interpolate(
            image, size=self.segmenter_size, mode="bicubic", align_corners=False, antialias=True
        )
        if self.zscore_segmenter:
            small = _standardised(small)
        logits = self.segmenter(small)["seg"].float()
        boxes, found = lesion_boxes(logits >= self.mask_logit)
        if lesion is not None:
            boxes, found = _true_boxes(lesion, boxes, found)
        crops = crop_boxes(image, boxes, self.crop_size, self.margin)
        if self.zscore_classifier:
            crops = _standardised(crops)
        classes = self.classifier(crops)["cls"].float()
        if not self.whole_without_lesion:
            normal = torch.tensor(self.no_lesion_logits, device=classes.device)
            classes = torch.where(found[:, None], classes, normal[None])
        height, width = image.shape[-2:]
        seg = interpolate(logits, size=[height, width], mode="bilinear", align_corners=False)
        return {"seg": seg, "cls": classes}


def lesion_boxes(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the box of each mask's largest connected lesion, by tensor operations alone.

    Components are found on a grid of up to 64 × 64 cells, a cell belonging to the lesion if any of
    its pixels does, neighbours across corners included: specks closer than a cell to the lesion
    count as part of it. Each component's cells take over the highest number among them, by as many
    steps as the grid is high and wide; only a winding shape longer than that would fall apart. The
    component with most pixels is boxed to the pixel.

    Args:
        mask: (N, 1, h, w) bool.

    Returns:
        (N, 4) float32 left, top, right, bottom as parts of the width and height, in [0, 1], the
        whole image where there is no lesion; and (N,) bool, whether there is one.

    Examples:
        >>> mask = torch.zeros(1, 1, 8, 16, dtype=torch.bool)
        >>> mask[0, 0, 2:6, 4:8] = mask[0, 0, 0, 15] = True
        >>> lesion_boxes(mask)
        (tensor([[0.2500, 0.2500, 0.5000, 0.7500]]), tensor([True]))
    """
    filled = mask[:, 0].float()
    return _enclosing_boxes(filled * _largest_component(filled))


def crop_boxes(
    image: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    margin: float = 0.0,
    oversampling: int = OVERSAMPLING,
) -> Tensor:
    """Return the images' boxes with a margin, resampled to one size.

    Sampled bilinearly at a multiple of the size and averaged, so that large boxes are not aliased.

    Args:
        image: (N, 1, H, W) float.
        boxes: (N, 4) left, top, right, bottom in [0, 1].
        size: (height, width) of the crops, (N, 1, height, width).
        margin: part of the box's sides added on each side, as far as the image reaches.
        oversampling: the multiple.
    """
    reach = margin * (boxes[:, 2:] - boxes[:, :2])
    low = (boxes[:, :2] - reach).clamp(0.0, 1.0)
    high = (boxes[:, 2:] + reach).clamp(0.0, 1.0)
    across = low[:, :1] + (high - low)[:, :1] * _centres(size[1] * oversampling, boxes)
    down = low[:, 1:] + (high - low)[:, 1:] * _centres(size[0] * oversampling, boxes)
    columns = across[:, None, :].expand(-1, size[0] * oversampling, -1)
    rows = down[:, :, None].expand(-1, -1, size[1] * oversampling)
    places = torch.stack([columns, rows], dim=3) * 2 - 1
    fine = grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)
    return nn.functional.avg_pool2d(fine, oversampling)


def _largest_component(filled: Tensor, grid: int = GRID) -> Tensor:
    """Return (N, h, w) 1 on the cells of each mask's component with most pixels, else 0."""
    height, width = filled.shape[-2:]
    side = max(1, math.ceil(max(height, width) / grid))
    down, across = math.ceil(height / side), math.ceil(width / side)
    padded = nn.functional.pad(filled, [0, across * side - width, 0, down * side - height])
    cells = padded.reshape(-1, down, side, across, side)
    pixels = cells.sum(dim=[2, 4])
    occupied = (pixels > 0).to(filled.dtype)
    numbers = torch.arange(1, down * across + 1, device=filled.device, dtype=filled.dtype)
    labels = occupied * numbers.reshape(1, down, across)
    for _ in range(down + across):
        spread = nn.functional.max_pool2d(labels[:, None], kernel_size=3, stride=1, padding=1)
        labels = spread[:, 0] * occupied
    flat = labels.reshape(-1, down * across).long()
    counts = torch.zeros([flat.shape[0], down * across + 1], device=filled.device)
    counts = counts.scatter_add(1, flat, pixels.reshape(-1, down * across))
    # label 0 is the background, without pixels
    chosen = (flat == counts.argmax(dim=1, keepdim=True)).to(filled.dtype)
    chosen = chosen.reshape(-1, down, across)
    whole = chosen.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
    return whole[:, :height, :width]


def _ends(filled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first filled position of (N, length), and the one behind the last."""
    length = filled.shape[1]
    places = torch.arange(length, device=filled.device, dtype=filled.dtype)[None]
    first = torch.where(filled > 0, places, torch.full_like(filled, length)).amin(dim=1)
    last = torch.where(filled > 0, places + 1, torch.zeros_like(filled)).amax(dim=1)
    return first, last


def _enclosing_boxes(filled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the box around all of (N, h, w) in [0, 1], as ``lesion_boxes`` does."""
    height, width = filled.shape[-2:]
    top, bottom = _ends(filled.amax(dim=2))
    left, right = _ends(filled.amax(dim=1))
    found = bottom > 0
    boxes = torch.stack([left / width, top / height, right / width, bottom / height], dim=1)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=filled.device)
    return torch.where(found[:, None], boxes, whole[None]), found


def _true_boxes(lesion: Tensor, boxes: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return the boxes of true masks, and the predicted ones where there is no mask.

    All lesions of an image are in its box, as in the classifier's training.
    """
    known = (lesion >= 0).flatten(1).all(dim=1)
    true, present = _enclosing_boxes((lesion[:, 0] > 0).float())
    return torch.where(known[:, None], true, boxes), torch.where(known, present, found)


def _centres(count: int, like: Tensor) -> Tensor:
    steps = torch.arange(count, device=like.device, dtype=like.dtype)
    return ((steps + 0.5) / count)[None]


def _standardised(image: Tensor) -> Tensor:
    """Return each image with mean 0 and deviation 1, as MONAI's ``NormalizeIntensity`` does."""
    mean = image.mean(dim=[1, 2, 3], keepdim=True)
    deviation = (image - mean).square().mean(dim=[1, 2, 3], keepdim=True).sqrt()
    return (image - mean) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _confident_normal(classes: Sequence[str]) -> list[float]:
    if NORMAL not in classes or len(classes) < 2:
        raise ValueError(
            f"when_no_lesion='normal' needs the class {NORMAL}, got {', '.join(classes)}"
        )
    rest = (1 - NO_LESION_NORMAL) / (len(classes) - 1)
    return [math.log(NO_LESION_NORMAL if name == NORMAL else rest) for name in classes]


def _size(name: str, size: Sequence[int], network: nn.Module) -> tuple[int, int]:
    height, width = (int(side) for side in size)
    stride = int(getattr(network, "stride", 1))
    if min(height, width) < 1 or height % stride or width % stride:
        raise ValueError(
            f"{name} must be (height, width), both divisible by {stride}, got {tuple(size)}"
        )
    return height, width
