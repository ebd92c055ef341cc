"""Masks by the true lesion's size, and averaged over batches where large lesions outweigh small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.evaluation.resampling import mean_figure

__all__ = ["BATCH_SIZE", "LESION_SIZES", "batch_average_figures", "lesion_size_figures"]

LESION_SIZES = {"small": (0.0, 0.02), "medium": (0.02, 0.10), "large": (0.10, 1.01)}
"""Sizes by name: the true lesion's part of the image's pixels, from the first up to the second.

On BUSI they hold 23, 44 and 33 % of the lesions.
"""


BATCH_SIZE = 8
"""Images in a batch, as in the published benchmark of U-shaped networks on BUSI."""
ORDERS = 200
_COLUMNS = ("dice", "lesion_fraction", "true_lesion_fraction")


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


def batch_average_figures(
    rows: pd.DataFrame, *, batch_size: int = BATCH_SIZE, orders: int = ORDERS, seed: int = 0
) -> dict[str, Any]:
    """Return IoU and F1 of batches whose pixels are pooled, averaged over the images.

    A large lesion outweighs the small ones of its batch, so that these figures lie above the means
    over images. They depend on who shares a batch with whom: they are averaged over random orders.
    Every image counts as many pixels as any other, as if resized to the same square.

    Args:
        rows: N rows with ``dice``, ``lesion_fraction`` and ``true_lesion_fraction``; those that
            lack one of them are left out.
        batch_size: images in a batch; the last one may have fewer.
        orders: number of random orders.
        seed: of the orders.

    Returns:
        ``iou`` and ``f1`` as ``{value, low, high, n}``, with low and high the 2.5th and 97.5th
        percentile over the *orders*, which tell nothing of the choice of images; ``batch_size``
        and ``orders``. Nothing if the table lacks the columns or has no such row.

    Examples:
        >>> rows = pd.DataFrame({"dice": [0.8, 0.0], "lesion_fraction": [0.4, 0.0],
        ...                      "true_lesion_fraction": [0.6, 0.1]})
        >>> round(batch_average_figures(rows)["f1"]["value"], 3)  # 2 · 0.4 / (0.4 + 0.7)
        0.727
    """
    if any(name not in rows.columns for name in _COLUMNS):
        return {}
    values = rows[list(_COLUMNS)].to_numpy(dtype=float)
    dice, predicted, true = values[~np.isnan(values).any(axis=1)].T
    if not len(dice):
        return {}
    both = np.where(predicted + true > 0, dice * (predicted + true) / 2, 0.0)
    parts = np.stack([both, predicted, true])
    draw = np.random.default_rng(seed)
    count = parts.shape[1]
    scores = np.array(
        [_average(parts[:, draw.permutation(count)], batch_size) for _ in range(orders)]
    )
    figures = {
        name: {
            "value": float(values.mean()),
            "low": float(np.percentile(values, 2.5)),
            "high": float(np.percentile(values, 97.5)),
            "n": count,
        }
        for name, values in zip(("iou", "f1"), scores.T, strict=True)
    }
    return {**figures, "batch_size": batch_size, "orders": orders}


def _average(parts: NDArray[np.float64], batch_size: int) -> tuple[float, float]:
    """Return IoU and F1 of consecutive batches, weighted by their number of images."""
    starts = np.arange(0, parts.shape[1], batch_size)
    both, predicted, true = np.add.reduceat(parts, starts, axis=1)
    images = np.diff([*starts, parts.shape[1]])
    iou = _ratio_or_one(both, predicted + true - both)
    f1 = _ratio_or_one(2 * both, predicted + true)
    return float(np.average(iou, weights=images)), float(np.average(f1, weights=images))


def _ratio_or_one(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
