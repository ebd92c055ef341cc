"""Which pixels of a mask file belong to the lesion: the one table for the values found in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_LABEL", "VOID", "lesion_pixels"]

MAX_LABEL = 15
"""Whole numbers from 1 to this one are labels: of several lesions, or of their kinds."""

VOID = 255
"""Beside labels, the value of pixels that were left undecided, such as a rim around the lesion."""

_MAX_FEW = 3  # soft edges have more levels above 0 than these
_MAX_BOTTOM = 0.05  # of the highest value: soft levels that begin above it have no background
_MIN_LABELLED = 0.1  # of the pixels of value 255: a void rim is no ten times its lesion
_SHOWN = 8


def lesion_pixels(values: NDArray[Any], *, lossy: bool = False) -> NDArray[np.bool_]:
    """Return the lesion, (H, W) bool, from the values as they stand in a mask file.

    ==============================================  ============================================
    values found                                    lesion
    ==============================================  ============================================
    0 alone                                         none
    0 and one other                                 the other
    0 and whole numbers up to 15                    all above 0
    the same and 255                                the same; 255 is void
    0 and two or three others, all from half of     all above 0
    the highest on (0, 128, 255)
    more levels from (nearly) 0 on, JPEG            from half of their own range on
    the highest of the type alone (255)             the whole image
    anything else: no 0, negative numbers, NaN,     ``ValueError``
    0, 20 and 255
    ==============================================  ============================================

    Args:
        values: (H, W) of any real type, not scaled.
        lossy: whether the file's coding changes values (JPEG), so that they are levels, not labels.

    Raises:
        ValueError: if nothing in the table fits; the message names the values.

    Examples:
        >>> lesion_pixels(np.array([[0, 1], [2, 255]])).tolist()
        [[False, True], [True, False]]
        >>> lesion_pixels(np.array([[0, 90], [110, 200], [140, 30]])).tolist()
        [[False, False], [True, True], [True, False]]
        >>> lesion_pixels(np.array([[1, 2]], dtype=np.uint8))
        Traceback (most recent call last):
        ValueError: holds the values 1, 2, none of them 0 for the background; \
save the lesion as 255 on 0, or lesions as 1, 2, … on 0
    """
    values = np.asarray(values)
    levels = _levels(values)
    if values.size == 0 or (levels.dtype.kind == "f" and not np.isfinite(levels).all()):
        raise ValueError("holds NaN or infinite values, or none; save the lesion as 255 on 0")
    low, high = float(levels[0]), float(levels[-1])
    if low == high == 0:
        return np.zeros(values.shape, dtype=bool)
    if len(levels) == 1 and high == _full(values.dtype):
        return np.ones(values.shape, dtype=bool)
    if low < 0:
        raise ValueError(f"holds the values {_shown(levels)}, expected none below 0; {_REMEDY}")
    few = not lossy and len(levels) <= 1 + _MAX_FEW
    if low > (0 if few else _MAX_BOTTOM * high):
        raise ValueError(
            f"holds the values {_shown(levels)}, none of them 0 for the background; {_REMEDY}"
        )
    if not lossy:
        if len(levels) == 2 and low == 0:
            return values > 0
        labels = levels[(levels > 0) & (levels != VOID)]
        if low == 0 and labels[-1] <= MAX_LABEL and np.array_equal(labels, np.round(labels)):
            labelled: NDArray[np.bool_] = (values > 0) & (values != VOID)
            void = np.count_nonzero(values == VOID)
            if np.count_nonzero(labelled) >= _MIN_LABELLED * void:
                return labelled
            raise ValueError(_ambiguous(levels))
    if few:
        if levels[1] < (high // 2 if high > 1 else high / 2):
            raise ValueError(_ambiguous(levels))
        return values > 0
    return values >= (low + high) / 2


_REMEDY = "save the lesion as 255 on 0, or lesions as 1, 2, … on 0"


def _levels(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values found, ascending; two alone need no sorting."""
    if values.size and values.dtype.kind in "biu":
        ends = np.array([values.min(), values.max()])
        if bool(((values == ends[0]) | (values == ends[1])).all()):
            return ends[: 1 + int(ends[0] != ends[1])]
    return np.unique(values)


def _full(dtype: np.dtype[Any]) -> float:
    """Return the highest value of a type as files of images use it."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _ambiguous(levels: NDArray[Any]) -> str:
    return (
        f"holds the values {_shown(levels)}, which are neither 0 and one other, nor labels up to "
        f"{MAX_LABEL}, nor soft levels; {_REMEDY}"
    )


def _shown(levels: NDArray[Any]) -> str:
    shown = ", ".join(f"{float(level):g}" for level in levels[:_SHOWN])
    return shown if len(levels) <= _SHOWN else f"{shown}, … {float(levels[-1]):g}"
