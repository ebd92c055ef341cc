"""How large a lesion is: its longest diameter and the one across it, in pixels or millimetres."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["lesion_diameters"]


def lesion_diameters(
    mask: ArrayLike, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float] | None:
    """Return the longest diameter of a mask's largest region, and its width across that.

    Between the pixels' outer corners, so that a square of n pixels is n wide. The long axis and the
    perpendicular short axis of RECIST (Eisenhauer et al., Eur J Cancer 2009).

    Args:
        mask: (H, W), non-zero on the lesion.
        spacing: (row, column) distance of pixels in any unit of length; that of the result.

    Returns:
        (long, short), or ``None`` for an empty mask.

    Examples:
        >>> lesion = np.zeros((20, 30), dtype=bool)
        >>> lesion[5:8, 10:14] = True  # 3 rows, 4 columns
        >>> lesion_diameters(lesion)
        (5.0, 4.8)
        >>> lesion_diameters(lesion, spacing=(0.1, 0.1))
        (0.5, 0.48)
    """
    binary = (np.asarray(mask) > 0).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    if count == 1:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    found = labels == largest
    rows = np.flatnonzero(found.any(axis=1))
    # the hull touches a row's first or last pixel only
    first, last = found[rows].argmax(axis=1), found.shape[1] - 1 - found[rows, ::-1].argmax(axis=1)
    rows, columns = np.concatenate([rows, rows]), np.concatenate([first, last])
    corners = np.concatenate(
        [np.stack([columns + x, rows + y], axis=1) for x in (0, 1) for y in (0, 1)]
    )
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0].astype(np.float64)
    hull *= (spacing[1], spacing[0])
    between = hull[:, None] - hull[None]
    lengths = np.hypot(between[..., 0], between[..., 1])
    ends = np.unravel_index(np.argmax(lengths), lengths.shape)
    long = float(lengths[ends])
    along = between[ends] / long
    across = hull @ np.array([-along[1], along[0]])
    return round(long, 6), round(float(across.max() - across.min()), 6)
