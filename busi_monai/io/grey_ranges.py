"""Which stored values are black and white: the one place that decides how deep grey levels are.

Image files, NIfTI, DICOM and arrays in memory all come here. What a file states is believed, unless
its values use much less: then the depth is the smallest of ``DEPTHS`` that holds them, told by a
warning. The table of ``decide_grey_range`` has a row for each case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import PredictionWarning
from busi_monai.errors import ImageReadError

__all__ = [
    "DEPTHS",
    "GREY_DEPTH",
    "GREY_UNKNOWN",
    "GreyRange",
    "Window",
    "decide_grey_range",
    "scale_grey",
]

DEPTHS = (8, 10, 12, 14, 16)
"""Bits of grey levels that scanners and converters write."""

GREY_DEPTH = "grey_depth"
"""Code of the warning that values use less than is stated."""

GREY_UNKNOWN = "grey_range_unknown"
"""Code of the warning that values fit no depth and were stretched."""

_MAX_CLIPPED = 0.01  # of the pixels, by a window
_LEAST_USED = 0.25  # of a window; a depth is stepped down from where less is used, too
_WIDEST = 16


@dataclass(frozen=True)
class Window:
    """A window of stored values, the lower one first, that a file states for display."""

    black: float
    white: float
    clipped: float  # share of the file's pixels outside of it

    @property
    def fits(self) -> bool:
        """Whether it clips no more than 1 % of the pixels."""
        return self.clipped <= _MAX_CLIPPED


@dataclass(frozen=True)
class GreyRange:
    """The stored values that become 0 and 1; what lies beyond is clipped.

    Attributes:
        black: the value of 0, above ``white`` where white is zero.
        white: the value of 1.
        hash_white: the integer that a grey of 1 is hashed and stored as: 65535, and of 16-bit
            integers their own.
        warnings: what the file does not state.
    """

    black: float
    white: float
    hash_white: int = 65535
    warnings: tuple[PredictionWarning, ...] = ()

    def inverted(self) -> GreyRange:
        """Return the same range with black and white exchanged."""
        return replace(self, black=self.white, white=self.black)

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return values of any shape as float32 in [0, 1]."""
        grey = values.astype(np.float32)
        if self.black:
            grey -= np.float32(self.black)
        grey /= np.float32(self.white - self.black)
        return np.clip(grey, 0, 1, out=grey)


def decide_grey_range(
    dtype: np.dtype[np.generic],
    lowest: float,
    highest: float,
    *,
    bits: int | None = None,
    significant: int | None = None,
    window: Window | None = None,
    source: str = "array",
) -> GreyRange:
    """Return which values of a file are black and white, the same for all its frames.

    ============================================= =========================== =========
    values                                        black to white              warning
    ============================================= =========================== =========
    bool                                          0 to 1
    integers, ``significant`` bits s hold them    0 to 2^s - 1
    integers of at most 8 bits b                  0 to 2^b - 1
    the same, signed                              -2^(b-1) to 2^(b-1) - 1
    integers of b = 9 to 16 bits                  0 to 2^b - 1
    the same, a smaller depth d holds them        0 to 2^d - 1                yes
    signed of 9 to 16 bits, some negative         -2^(b-1) to 2^(b-1) - 1
    the same, a smaller depth d holds them        -2^(d-1) to 2^(d-1) - 1     yes
    the same, none negative                       as unsigned of b - 1 bits   yes
    integers of unknown or more bits, 0 and 1     0 to 1
    the same, a depth d holds them                0 to 2^d - 1                yes
    the same, negative or beyond 16 bits          lowest to highest           yes
    floats from 0 to 1                            0 to 1
    floats from 0 to 255                          0 to 255
    other floats                                  lowest to highest           yes
    integers with a window of which a quarter is  the window
    used and that clips at most 1 % of the pixels
    the same, more is clipped                     as without window           yes
    ============================================= =========================== =========

    A depth d is one of ``DEPTHS``. Zeros alone are of the depth that is stated.

    Args:
        dtype: of the values.
        lowest: the smallest value in all frames of the file.
        highest: the greatest.
        bits: how many the file states; by default those of ``uint8`` and ``uint16``.
        significant: of these, how many the file says are used; not believed if values need more.
        window: what the file states for display, in stored values.
        source: what messages call it.

    Raises:
        ImageReadError: for NaN and infinite values, and floats or wide integers that are all equal.

    Examples:
        >>> decide_grey_range(np.dtype("uint8"), 0, 90).white
        255
        >>> found = decide_grey_range(np.dtype("uint16"), 0, 4000)
        >>> found.white, found.warnings[0].code
        (4095, 'grey_depth')
    """
    if dtype.kind not in "biuf":
        raise ImageReadError(f"{source}: expected numbers as pixels, found {dtype}")
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ImageReadError(f"{source}: the pixels hold NaN or infinite values")
    if dtype.kind == "b":
        return GreyRange(0, 1)
    if dtype.kind == "f":
        return _range_of_floats(lowest, highest, source)
    if bits is None and dtype in (np.uint8, np.uint16):
        bits = 8 * dtype.itemsize
    decided = _range_of_integers(dtype, lowest, highest, bits, significant, source)
    if window is None:
        return decided
    if not window.fits:
        warning = PredictionWarning(
            "window_not_applied",
            "the stated window for display clips more than 1 % of the pixels and is not applied",
        )
        return replace(decided, warnings=(*decided.warnings, warning))
    if highest - window.black < _LEAST_USED * (window.white - window.black):
        return decided
    return GreyRange(window.black, window.white)


def scale_grey(
    values: NDArray[np.generic],
    *,
    bits: int | None = None,
    significant: int | None = None,
    white_is_zero: bool = False,
    source: str = "array",
) -> tuple[NDArray[np.float32], GreyRange]:
    """Return (H, W) or (H, W, 3) values in [0, 1], what is transparent black, and their range.

    Args:
        values: (H, W), or (H, W, C) with 3 RGB or 4 RGBA channels; alpha has a range of its own.
        bits: as ``significant``, ``source`` and the errors see ``decide_grey_range``.
        significant: of these, how many are used.
        white_is_zero: whether the lowest value is white.
        source: what messages call it.
    """

    def decide(part: NDArray[np.generic]) -> GreyRange:
        if part.size == 0:
            raise ImageReadError(f"{source}: expected pixels, there are none")
        low, high = part.min().item(), part.max().item()
        return decide_grey_range(
            part.dtype, low, high, bits=bits, significant=significant, source=source
        )

    colours = values[..., :3] if values.ndim == 3 else values
    found = decide(colours)
    if white_is_zero:
        found = found.inverted()
    grey = found.apply(colours)
    if values.ndim == 3 and values.shape[2] == 4:
        grey = grey * decide(values[..., 3:]).apply(values[..., 3:])
    return grey, found


def _range_of_floats(lowest: float, highest: float, source: str) -> GreyRange:
    for white in (1, 255):
        if lowest >= 0 and highest <= white:
            return GreyRange(0, white)
    return _own_range(lowest, highest, source)


def _range_of_integers(
    dtype: np.dtype[np.generic],
    lowest: float,
    highest: float,
    bits: int | None,
    significant: int | None,
    source: str,
) -> GreyRange:
    if significant is not None and lowest >= 0 and highest < 2**significant:
        return _of_depth(significant, bits)
    if bits is None or bits > _WIDEST:
        if lowest < 0 or highest >= 2**_WIDEST:
            return _own_range(lowest, highest, source)
        if highest <= 1:
            return GreyRange(0, 1)
        depth = _depth_of(highest, _WIDEST)
        return GreyRange(0, 2**depth - 1, warnings=(_used(depth, f"{dtype} values"),))
    if dtype.kind == "i":
        return _range_of_signed(lowest, highest, bits)
    depth = _depth_of(highest, bits)
    stepped = () if depth == bits else (_used(depth, f"values of {bits} bits"),)
    return replace(_of_depth(depth, bits), warnings=stepped)


def _range_of_signed(lowest: float, highest: float, bits: int) -> GreyRange:
    if lowest >= 0 and bits > DEPTHS[0]:
        depth = _depth_of(highest, bits - 1)
        return GreyRange(0, 2**depth - 1, warnings=(_used(depth, f"signed values of {bits} bits"),))
    depth = _depth_of(2 * max(-lowest - 1, highest), bits)
    stepped = () if depth == bits else (_used(depth, f"signed values of {bits} bits"),)
    half = 2 ** (depth - 1)
    return GreyRange(-half, half - 1, warnings=stepped)


def _depth_of(highest: float, bits: int) -> int:
    """Return the smallest depth that holds a value, ``bits`` where none below is enough."""
    if highest <= 0:
        return bits
    return next((depth for depth in DEPTHS if depth < bits and highest < 2**depth), bits)


def _of_depth(depth: int, bits: int | None) -> GreyRange:
    return GreyRange(0, 2**depth - 1, 2**depth - 1 if bits == _WIDEST else 65535)


def _own_range(lowest: float, highest: float, source: str) -> GreyRange:
    if lowest == highest:
        raise ImageReadError(f"{source}: every pixel holds {lowest:g}; expected an image")
    warning = PredictionWarning(
        GREY_UNKNOWN,
        "the values fit no depth of grey levels and were stretched from their lowest to their "
        "highest",
    )
    return GreyRange(lowest, highest, warnings=(warning,))


def _used(depth: int, values: str) -> PredictionWarning:
    return PredictionWarning(GREY_DEPTH, f"{values} use {depth} bits and were read as such")
