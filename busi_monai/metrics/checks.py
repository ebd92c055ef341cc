"""What class labels and probabilities must look like before anything is computed from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["check_labels", "check_probabilities"]

ROUNDING = 1e-3


def check_labels(name: str, values: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Return (N,) class indices as int64.

    Raises:
        ValueError: if they are not one-dimensional integers in [0, ``n_classes``).
    """
    labels = np.asarray(values)
    if labels.ndim != 1:
        raise ValueError(f"{name}: expected shape (N,), got {labels.shape}")
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise ValueError(f"{name}: expected integer class indices, got {labels.dtype} values")
    if len(whole) and (whole.min() < 0 or whole.max() >= n_classes):
        raise ValueError(
            f"{name}: expected class indices from 0 to {n_classes - 1}, got {whole.min()} to "
            f"{whole.max()}; leave out images of unknown class"
        )
    return whole


def check_probabilities(
    true: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (N,) labels and (N, C) probabilities that belong together.

    Raises:
        ValueError: if the shapes do not match, or rows are no distributions (to rounding).
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"probabilities: expected shape (N, C), got {values.shape}")
    labels = check_labels("true", true, values.shape[1])
    if len(labels) != len(values):
        raise ValueError(f"got {len(labels)} true classes, but probabilities of {len(values)}")
    if not len(values):
        return labels, values
    in_range = values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING
    if not in_range or np.abs(values.sum(axis=1) - 1).max() > ROUNDING:
        raise ValueError("probabilities: expected rows in [0, 1] that sum to 1; are these logits?")
    return labels, values
