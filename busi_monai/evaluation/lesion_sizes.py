"""Masks measured by the true lesion's size, since small lesions are the hard ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.evaluation.resampling import mean_figure

__all__ = ["LESION_SIZES", "lesion_size_figures"]

LESION_SIZES = {"small": (0.0, 0.02), "medium": (0.02, 0.10), "large": (0.10, 1.01)}
"""Sizes by name: the true lesion's part of the image's pixels, from the first up to the second.

On BUSI they hold 23, 44 and 33 % of the lesions.
"""


def lesion_size_figures(
    rows: pd.DataFrame, weights: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    """Return Dice, IoU and the part of lesions found for each of ``LESION_SIZES``.

    Args:
        rows: N rows with ``true_lesion_fraction``, ``dice`` and ``iou``.
        weights: (R, N), how often each resample holds each row.

    Returns:
        By size ``dice``, ``iou`` and ``found`` (part of the lesions that the mask meets at all) as
        ``{value, low, high, n}``, and the number ``n``; nothing if the table lacks the columns.
    """
    columns = ("true_lesion_fraction", "dice", "iou")
    if any(name not in rows.columns for name in columns):
        return {}
    size, dice, iou = (rows[name].to_numpy(dtype=float) for name in columns)
    found: dict[str, dict[str, Any]] = {}
    for name, (low, high) in LESION_SIZES.items():
        members = (size > 0) & (size >= low) & (size < high) & ~np.isnan(dice)
        values = {"dice": dice, "iou": iou, "found": (dice > 0).astype(float)}
        found[name] = {
            "n": int(members.sum()),
            **{
                kind: mean_figure(weights, np.where(members, value, np.nan)).as_dict()
                for kind, value in values.items()
            },
        }
    return found
