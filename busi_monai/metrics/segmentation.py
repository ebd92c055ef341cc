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

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["dice", "lesion_box", "segmentation_scores"]

Mask = NDArray[np.bool_]


def segmentation_scores(pred: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """Return all scores of one image.

    ``dice`` is 2·|A∩B| / (|A|+|B|) (Dice 1945), ``iou`` |A∩B| / |A∪B| (Jaccard 1901), ``mean_iou``
    the mean of the lesion's and the background's, ``pixel_accuracy`` the part of the pixels that
    agree. ``hd95_px`` is the larger of the two directed 95th percentiles of the distances from each
    outline pixel to the nearest one of the other mask, as in
    ``monai.metrics.compute_hausdorff_distance`` (which takes twice as long). Outline pixels are
    those of the mask with one of their four neighbours, or the outside of the image, not in it.

    Args:
        pred: (H, W) predicted mask of bool or 0 and 1.
        true: (H, W) true mask of bool or 0 and 1.

    Returns:
        ``dice``, ``iou``, ``mean_iou``, ``pixel_accuracy`` in [0, 1] and ``hd95_px`` in pixels.

    Raises:
        ValueError: if the shapes differ, are not (H, W), or values other than 0 and 1 occur.

    Examples:
        >>> segmentation_scores([[0, 0], [0, 0]], [[0, 0], [0, 0]])
        {'dice': 1.0, 'iou': 1.0, 'mean_iou': 1.0, 'pixel_accuracy': 1.0, 'hd95_px': 0.0}
    """
    predicted, truth = _masks(pred, true)
    both = int(np.count_nonzero(predicted & truth))
    either = int(np.count_nonzero(predicted | truth))
    pixels = predicted.size
    iou = _ratio_or_one(both, either)
    return {
        "dice": _ratio_or_one(2 * both, both + either),
        "iou": iou,
        "mean_iou": (iou + _ratio_or_one(pixels - either, pixels - both)) / 2,
        "pixel_accuracy": (both + pixels - either) / pixels,
        "hd95_px": _hausdorff95(predicted, truth),
    }


def dice(pred: ArrayLike, true: ArrayLike) -> float:
    """Return the Dice of ``segmentation_scores`` alone, which takes well under a millisecond.

    Examples:
        >>> dice([[1, 1, 0]], [[0, 1, 1]])
        0.5
    """
    predicted, truth = _masks(pred, true)
    both = int(np.count_nonzero(predicted & truth))
    return _ratio_or_one(2 * both, int(np.count_nonzero(predicted) + np.count_nonzero(truth)))


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


def _hausdorff95(predicted: Mask, truth: Mask) -> float:
    box = lesion_box(predicted | truth)
    if box is None:
        return 0.0
    if not predicted.any() or not truth.any():
        return math.nan
    left, top, width, height = box
    region = (slice(top, top + height), slice(left, left + width))
    first, second = _outline(predicted[region]), _outline(truth[region])
    return max(_directed_95(first, second), _directed_95(second, first))


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
    from scipy import ndimage  # slow to import, and predicting needs none of it

    return mask & ~ndimage.binary_erosion(mask)


def _directed_95(start: Mask, goal: Mask) -> float:
    from scipy import ndimage

    return float(np.percentile(ndimage.distance_transform_edt(~goal)[start], 95))


def _ratio_or_one(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
