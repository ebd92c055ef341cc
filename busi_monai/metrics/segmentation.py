"""Agreement of one predicted mask with the true one, at native size, with the empty-mask rules.

======================  ====  ===  =====================  ========================  =======
masks                   Dice  IoU  mean IoU               pixel accuracy            HD95
======================  ====  ===  =====================  ========================  =======
both empty              1     1    1                      1                         0
predicted empty only    0     0    half background IoU    part of pixels that agree undefined
true empty only         0     0    half background IoU    part of pixels that agree undefined
both full               1     1    1                      1                         0
======================  ====  ===  =====================  ========================  =======

Undefined is NaN. Dice and IoU follow one rule, so a normal counts as 1 if its predicted mask is
empty, else as 0. Masks are (H, W) arrays of bool or of 0 and 1; figures are per image and never
averaged over batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

__all__ = [
    "dice",
    "hausdorff95_px",
    "iou",
    "lesion_box",
    "mean_iou",
    "pixel_accuracy",
    "segmentation_scores",
]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Overlap:
    """Pixel counts of a pair of masks."""

    both: int
    predicted: int
    true: int
    pixels: int

    @property
    def either(self) -> int:
        return self.predicted + self.true - self.both

    @property
    def neither(self) -> int:
        return self.pixels - self.either

    @property
    def dice(self) -> float:
        return _ratio_or_one(2 * self.both, self.predicted + self.true)

    @property
    def iou(self) -> float:
        return _ratio_or_one(self.both, self.either)

    @property
    def mean_iou(self) -> float:
        return (self.iou + _ratio_or_one(self.neither, self.pixels - self.both)) / 2

    @property
    def pixel_accuracy(self) -> float:
        return (self.both + self.neither) / self.pixels


def segmentation_scores(pred: ArrayLike, true: ArrayLike, *, hd95: bool = True) -> dict[str, float]:
    """Return all scores of one image.

    Args:
        pred: (H, W) predicted mask of bool or 0 and 1.
        true: (H, W) true mask of bool or 0 and 1.
        hd95: whether ``hd95_px`` is computed; without, the rest takes well under a millisecond.

    Returns:
        ``dice``, ``iou``, ``mean_iou``, ``pixel_accuracy`` in [0, 1] and ``hd95_px`` in pixels.

    Raises:
        ValueError: if the shapes differ, are not (H, W), or values other than 0 and 1 occur.

    Examples:
        >>> segmentation_scores([[0, 0], [0, 0]], [[0, 0], [0, 0]])
        {'dice': 1.0, 'iou': 1.0, 'mean_iou': 1.0, 'pixel_accuracy': 1.0, 'hd95_px': 0.0}
    """
    overlap = _overlap(pred, true)
    scores = {
        "dice": overlap.dice,
        "iou": overlap.iou,
        "mean_iou": overlap.mean_iou,
        "pixel_accuracy": overlap.pixel_accuracy,
    }
    if hd95:
        scores["hd95_px"] = hausdorff95_px(pred, true)
    return scores


def dice(pred: ArrayLike, true: ArrayLike) -> float:
    """Return 2·|A∩B| / (|A|+|B|) in [0, 1] of two (H, W) masks (Dice 1945); both empty: 1.

    Raises:
        ValueError: as for ``segmentation_scores``.

    Examples:
        >>> dice([[1, 1, 0]], [[0, 1, 1]])
        0.5
    """
    return _overlap(pred, true).dice


def iou(pred: ArrayLike, true: ArrayLike) -> float:
    """Return |A∩B| / |A∪B| in [0, 1] of two (H, W) masks (Jaccard 1901); both empty: 1.

    Raises:
        ValueError: as for ``segmentation_scores``.

    Examples:
        >>> iou([[1, 1, 0, 0]], [[0, 1, 1, 1]])
        0.25
    """
    return _overlap(pred, true).iou


def mean_iou(pred: ArrayLike, true: ArrayLike) -> float:
    """Return the mean of the lesion's and the background's IoU in [0, 1] of two (H, W) masks.

    Raises:
        ValueError: as for ``segmentation_scores``.

    Examples:
        >>> mean_iou([[1, 0, 0, 0]], [[0, 0, 0, 0]])
        0.375
    """
    return _overlap(pred, true).mean_iou


def pixel_accuracy(pred: ArrayLike, true: ArrayLike) -> float:
    """Return the part of the pixels on which two (H, W) masks agree, in [0, 1].

    Raises:
        ValueError: as for ``segmentation_scores``.

    Examples:
        >>> pixel_accuracy([[1, 0, 0, 0]], [[0, 0, 0, 0]])
        0.75
    """
    return _overlap(pred, true).pixel_accuracy


def hausdorff95_px(pred: ArrayLike, true: ArrayLike) -> float:
    """Return the 95 % Hausdorff distance of two (H, W) masks' outlines, in pixels.

    The larger of the two directed 95th percentiles of the distances from each outline pixel to the
    nearest one of the other mask, as in ``monai.metrics.compute_hausdorff_distance`` (which takes
    twice as long). Outline pixels are those of the mask with one of their four neighbours, or the
    outside of the image, not in it. Both masks empty: 0; one of them: NaN.

    Raises:
        ValueError: as for ``segmentation_scores``.

    Examples:
        >>> hausdorff95_px([[1, 0, 0, 0, 0]], [[0, 0, 0, 1, 0]])
        3.0
    """
    predicted, truth = _masks(pred, true)
    box = lesion_box(predicted | truth)
    if box is None:
        return 0.0
    if not predicted.any() or not truth.any():
        return math.nan
    left, top, width, height = box
    region = (slice(top, top + height), slice(left, left + width))
    first, second = _outline(predicted[region]), _outline(truth[region])
    return max(_directed_95(first, second), _directed_95(second, first))


def lesion_box(mask: ArrayLike) -> tuple[int, int, int, int] | None:
    """Return the box (x, y, width, height) in pixels around an (H, W) mask, ``None`` if empty.

    Examples:
        >>> lesion_box([[0, 0, 0], [0, 1, 1]])
        (1, 1, 2, 1)
    """
    filled = np.asarray(mask) != 0
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    if not len(rows):
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def _overlap(pred: ArrayLike, true: ArrayLike) -> _Overlap:
    predicted, truth = _masks(pred, true)
    return _Overlap(
        both=int(np.count_nonzero(predicted & truth)),
        predicted=int(np.count_nonzero(predicted)),
        true=int(np.count_nonzero(truth)),
        pixels=predicted.size,
    )


def _masks(pred: ArrayLike, true: ArrayLike) -> tuple[Mask, Mask]:
    predicted, truth = _mask("pred", pred), _mask("true", true)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"pred has shape {predicted.shape}, true {truth.shape}; compare both at native size"
        )
    return predicted, truth


def _mask(name: str, values: ArrayLike) -> Mask:
    array = np.asarray(values)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: expected a mask of shape (H, W), got {array.shape}")
    if array.dtype == np.bool_:
        return array
    mask = array != 0
    if not np.array_equal(array, mask):
        raise ValueError(
            f"{name}: expected bool or 0 and 1, got values from {array.min()} to {array.max()}; "
            "threshold it first"
        )
    return mask


def _outline(mask: Mask) -> Mask:
    return mask & ~ndimage.binary_erosion(mask)


def _directed_95(start: Mask, goal: Mask) -> float:
    return float(np.percentile(ndimage.distance_transform_edt(~goal)[start], 95))


def _ratio_or_one(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
