"""The arithmetic around the network, on NumPy arrays: filters, places, class and mask decisions.

Resizing, z-scores, sigmoid and softmax stay with torch (``busi_monai.transforms``): NumPy, OpenCV
and Pillow round them differently in the last bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import MALIGNANT, NORMAL
from busi_monai.settings import Consistency, InferenceSettings

__all__ = [
    "DEFAULT_MALIGNANT_THRESHOLD",
    "agreed_finding",
    "box_with_margin",
    "choose_class",
    "decide",
    "equalise_contrast",
    "fitted_place",
    "laid_on_canvas",
    "median_filter",
]

Box = tuple[int, int, int, int]
Pixels = NDArray[np.float32]

DEFAULT_MALIGNANT_THRESHOLD = 0.5
CLAHE_CLIP_LIMIT = 2.0
CLAHE_TILES = (8, 8)


def median_filter(pixels: Pixels, size: int) -> Pixels:
    """Return (H, W) float32 in [0, 1] with speckle smoothed by the median of a square window.

    OpenCV takes 0.2 ms for a BUSI image, MONAI 39.

    Args:
        pixels: the image.
        size: odd side of the window in pixels; above 5 the grey values are cut to 8 bits.
    """
    if size <= 5:
        return np.asarray(cv2.medianBlur(pixels, size))
    return _from_8_bits(cv2.medianBlur(_to_8_bits(pixels), size))


def equalise_contrast(pixels: Pixels) -> Pixels:
    """Return (H, W) float32 in [0, 1] with its contrast equalised by CLAHE, in 8 bits.

    References:
        K. Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994.
    """
    equaliser = cv2.createCLAHE(CLAHE_CLIP_LIMIT, CLAHE_TILES)
    return _from_8_bits(equaliser.apply(_to_8_bits(pixels)))


def fitted_place(
    native: Sequence[int], size: tuple[int, int], *, keep_aspect: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return how large an image becomes within the network's input, and its upper left corner.

    Args:
        native: (height, width) of the image.
        size: (height, width) of the input.
        keep_aspect: whether the image keeps its aspect, centred; it fills the input otherwise.

    Examples:
        >>> fitted_place((50, 100), (80, 80), keep_aspect=True)
        ((40, 80), (20, 0))
    """
    if not keep_aspect:
        return size, (0, 0)
    scale = min(size[0] / native[0], size[1] / native[1])
    height, width = (
        min(side, max(1, round(length * scale))) for side, length in zip(size, native, strict=True)
    )
    return (height, width), ((size[0] - height) // 2, (size[1] - width) // 2)


def box_with_margin(
    box: tuple[float, float, float, float], margin: float, size: tuple[int, int]
) -> Box:
    """Return a box enlarged on each side by a part of its own sides, within the image.

    Args:
        box: (left, top, width, height) in pixels.
        margin: part of the box's width that is added left and right, and of its height above and
            below; negative to shrink.
        size: (height, width) of the image.

    Returns:
        (left, top, width, height) in whole pixels, at least one each way.

    Examples:
        >>> box_with_margin((40, 10, 20, 10), 0.25, (100, 64))
        (35, 8, 29, 14)
    """
    left, right = _side(box[0], box[2], margin, size[1])
    top, bottom = _side(box[1], box[3], margin, size[0])
    return left, top, right - left, bottom - top


def _side(start: float, length: float, margin: float, limit: int) -> tuple[int, int]:
    low = min(max(round(start - margin * length), 0), limit - 1)
    high = max(min(round(start + length + margin * length), limit), low + 1)
    return low, high


def laid_on_canvas(pixels: NDArray[Any], canvas: Sequence[int]) -> NDArray[Any]:
    """Return (H, W) pixels of a part of an image laid on the whole, which is 0 elsewhere.

    Args:
        pixels: the part.
        canvas: (top, left) of the part, (height, width) of the whole.
    """
    top, left, height, width = (int(value) for value in canvas)
    if pixels.shape == (height, width):
        return pixels
    whole = np.zeros((height, width), dtype=pixels.dtype)
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return whole


def choose_class(
    probabilities: Sequence[float], classes: Sequence[str], thresholds: Mapping[str, float]
) -> str:
    """Return the predicted class.

    A class with a threshold is predicted exactly from that probability on, whatever the others
    are; if several reach theirs, malignant goes before benign before normal. If none does, the most
    probable of the classes without a threshold is taken, or of all where each has one.

    Args:
        probabilities: (C,) calibrated probabilities.
        classes: C class names in the order of ``CLASSES``.
        thresholds: threshold in [0, 1] by class name; empty for the most probable class.

    Examples:
        >>> names = ("normal", "benign", "malignant")
        >>> choose_class([0.1, 0.6, 0.3], names, {})
        'benign'
        >>> choose_class([0.1, 0.6, 0.3], names, {"malignant": 0.3})
        'malignant'
    """
    by_class = dict(zip(classes, probabilities, strict=True))
    for name in reversed(list(by_class)):
        if name in thresholds and by_class[name] >= thresholds[name]:
            return name
    free = [name for name in by_class if name not in thresholds] or list(by_class)
    return max(free, key=by_class.__getitem__)


def agreed_finding(
    predicted_class: str,
    mask: NDArray[np.uint8],
    probabilities: Mapping[str, float],
    rule: Consistency,
    malignant_threshold: float = DEFAULT_MALIGNANT_THRESHOLD,
) -> tuple[str, NDArray[np.uint8]]:
    """Return class and mask made to agree; probabilities are never altered.

    A lesion smaller than ``min_lesion_fraction`` of the image, or none at all, or a p_normal from
    ``normal_threshold`` on makes the predicted class normal; a predicted normal gets an empty mask.
    While p_malignant is at or above its operating threshold nothing is changed, nor in systems
    without a normal class.

    Args:
        predicted_class: by the probabilities.
        mask: (H, W) of 0 and 1.
        probabilities: calibrated probability by class name.
        rule: the areas and switches; whether it is ``enabled`` is the caller's question.
        malignant_threshold: probability from which a malignant finding must not be touched.
    """
    may_be_malignant = probabilities.get(MALIGNANT, -1.0) >= malignant_threshold
    if NORMAL not in probabilities or may_be_malignant:
        return predicted_class, mask
    fraction = float(np.count_nonzero(mask)) / mask.size
    predicted_class, emptied = rule.applied(predicted_class, fraction, probabilities[NORMAL])
    return predicted_class, np.zeros_like(mask) if emptied else mask


def decide(
    lesion_probability: NDArray[np.float32] | None,
    probabilities: Sequence[float] | None,
    settings: InferenceSettings,
) -> tuple[NDArray[np.uint8] | None, str | None]:
    """Return mask and class of one image, made to agree where the settings say so.

    Args:
        lesion_probability: (H, W) in [0, 1], or ``None`` without a mask head.
        probabilities: (C,) calibrated probabilities, or ``None`` without a class head.
        settings: thresholds and the consistency rule.

    Returns:
        (H, W) mask of 0 and 1 and the class's name; ``None`` for what there is no head for.

    Examples:
        >>> decide(np.eye(2, dtype=np.float32), [0.2, 0.5, 0.3], InferenceSettings())
        (array([[1, 0],
               [0, 1]], dtype=uint8), 'benign')
    """
    mask = None
    if lesion_probability is not None:
        mask = (lesion_probability >= settings.mask_threshold).astype(np.uint8)
    if probabilities is None:
        return mask, None
    predicted_class = choose_class(probabilities, settings.classes, settings.class_thresholds)
    if mask is None or not settings.consistency.enabled:
        return mask, predicted_class
    predicted_class, mask = agreed_finding(
        predicted_class,
        mask,
        dict(zip(settings.classes, probabilities, strict=True)),
        settings.consistency,
        settings.class_thresholds.get(MALIGNANT, DEFAULT_MALIGNANT_THRESHOLD),
    )
    return mask, predicted_class


def _to_8_bits(pixels: Pixels) -> NDArray[np.uint8]:
    return np.round(pixels * 255).astype(np.uint8)


def _from_8_bits(pixels: NDArray[np.uint8]) -> Pixels:
    return pixels.astype(np.float32) / np.float32(255)
