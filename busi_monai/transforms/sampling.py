"""What the random transforms share: checked options, and draws from their ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from busi_monai.errors import InputError

__all__ = ["Range", "checked_part", "checked_range", "log_uniform"]

Range = Sequence[float]


def log_uniform(state: np.random.RandomState, bounds: tuple[float, float]) -> float:
    """Return a number within (smallest, largest), drawn evenly on a log scale."""
    return math.exp(state.uniform(math.log(bounds[0]), math.log(bounds[1])))


def checked_part(name: str, value: float) -> float:
    """Return a probability or another number in [0, 1], or raise an ``InputError`` that names it.

    Examples:
        >>> checked_part("shadow", 0.6)
        0.6
        >>> checked_part("shadow", 6)
        Traceback (most recent call last):
        busi_monai.errors.InputError: shadow must be a number in [0, 1], got 6
    """
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be a number in [0, 1], got {value}")
    return float(value)


def checked_range(name: str, value: Range, *, limit: float = math.inf) -> tuple[float, float]:
    """Return (smallest, largest) in (0, ``limit``], or raise an ``InputError`` that names them.

    Examples:
        >>> checked_range("gamma", [0.7, 1.5])
        (0.7, 1.5)
    """
    try:
        low, high = (float(bound) for bound in value)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not 0 < low <= high <= limit:
        bound = "both above 0" if limit == math.inf else f"above 0 and at most {limit:g}"
        raise InputError(f"{name} must be (smallest, largest), {bound}, got {value}")
    return low, high
