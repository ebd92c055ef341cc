"""What a DICOM file states of grey levels (PS3.3 C.11.1 and 2), regions and scales (C.8.5.5)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import PredictionWarning
from busi_monai.io.grey_ranges import GreyRange, Window, decide_grey_range
from busi_monai.io.pixel_scales import PixelScale, ScaleRegion, Spacing, area, believed_spacing

__all__ = ["GreyLevels", "StatedGrey", "largest_region", "numbers_of", "scale_of"]

_SEVERAL_WINDOWS = PredictionWarning(
    "several_windows", "the file states several windows for display; the first one is taken"
)
_TABLE_NOT_APPLIED = PredictionWarning(
    "grey_table_not_applied", "the file states a table or curve of grey levels, not applied"
)

_SHIFTS = {"LINEAR": 0.5, "LINEAR_EXACT": 0.0}
"""Of the middle of a window, by its curve."""


@dataclass(frozen=True)
class StatedGrey:
    """What a file states of its grey levels, and warnings of what of it is not done.

    Attributes:
        window: stored values (black, white) of the first window, the lower one first; without one,
            of what a slope above 1 spreads over the stated bits; else ``None``.
        implied: whether the window is the slope's, not one for display.
        inverted: whether low values are bright, by the photometric interpretation or the slope.
    """

    window: tuple[float, float] | None = None
    implied: bool = False
    inverted: bool = False
    warnings: tuple[PredictionWarning, ...] = ()

    @classmethod
    def of(cls, dataset: Any) -> StatedGrey:
        """Read it from a ``pydicom`` dataset; colours have no window."""
        photometric = str(dataset.PhotometricInterpretation)
        if not photometric.startswith("MONOCHROME"):
            return cls()
        (slope,) = numbers_of(dataset, "RescaleSlope")[:1] or [1.0]
        (intercept,) = numbers_of(dataset, "RescaleIntercept")[:1] or [0.0]
        slope = slope or 1.0
        centres = numbers_of(dataset, "WindowCenter")
        widths = numbers_of(dataset, "WindowWidth")
        curve = str(dataset.get("VOILUTFunction") or "LINEAR")
        table = bool(dataset.get("ModalityLUTSequence")) or (
            bool(dataset.get("VOILUTSequence")) and not centres
        )
        warnings = []
        window = None
        if centres and widths and curve in _SHIFTS:
            shift = _SHIFTS[curve]
            centre, half = centres[0] - shift, (widths[0] - 2 * shift) / 2
            black, white = sorted((e - intercept) / slope for e in (centre - half, centre + half))
            window = (black, white) if black < white else None
            warnings += [_SEVERAL_WINDOWS] * (len(centres) > 1)
        implied = not centres and slope > 1
        if implied:
            most = 2.0 ** int(dataset.BitsStored) - 1
            window = (-intercept / slope, (most - intercept) / slope)
        if table or (centres and curve not in _SHIFTS):
            warnings.append(_TABLE_NOT_APPLIED)
        return cls(window, implied, (photometric == "MONOCHROME1") != (slope < 0), tuple(warnings))


@dataclass(frozen=True)
class GreyLevels:
    """The stored values that occur in one or all frames of a file.

    ``clipped`` is the share of them outside of the stated window.
    """

    dtype: np.dtype[np.generic]
    lowest: float
    highest: float
    clipped: float

    @classmethod
    def of(cls, frames: Iterable[NDArray[Any]], stated: StatedGrey) -> GreyLevels:
        """Look through frames, one at a time."""
        lowest, highest, outside, total = np.inf, -np.inf, 0, 0
        dtype: np.dtype[np.generic] = np.dtype(np.uint8)
        for values in frames:
            dtype = values.dtype
            lowest = min(lowest, values.min().item())
            highest = max(highest, values.max().item())
            total += values.size
            if stated.window is not None:
                black, white = stated.window
                outside += int(np.count_nonzero((values < black) | (values > white)))
        return cls(dtype, lowest, highest, outside / max(total, 1))

    def grey_range(self, bits: int, stated: StatedGrey, source: str) -> GreyRange:
        """Return which values are black and white, see ``decide_grey_range``."""
        window = None if stated.window is None else Window(*stated.window, self.clipped)
        if window is not None and stated.implied and not window.fits:
            window = None
        found = decide_grey_range(
            self.dtype, self.lowest, self.highest, bits=bits, window=window, source=source
        )
        return found.inverted() if stated.inverted else found


def numbers_of(dataset: Any, name: str) -> list[float]:
    """Return an element's finite numbers; none if it is missing, empty or no numbers."""
    value = dataset.get(name)
    values = [value] if isinstance(value, (int, float, str)) or value is None else list(value)
    try:
        numbers = [float(number) for number in values if number not in (None, "")]
    except (TypeError, ValueError):
        return []
    return [number for number in numbers if math.isfinite(number)]


_TWO_DIMENSIONAL = 1
_TISSUE_OR_FLOW = (1, 2)
_CENTIMETRES = 3
_LOW_PRIORITY = 1  # bit of the flags
_MAX_REGIONS = 64
_CM_IN_MM = 10

_TOO_MANY_REGIONS = PredictionWarning(
    "too_many_regions",
    f"the file states more than {_MAX_REGIONS} ultrasound regions, so that no scale is believed",
)
_NOT_BELIEVED = PredictionWarning(
    "pixel_spacing_not_believed",
    "PixelSpacing is 1 by 1 mm, as writers put where they know none, or impossible; sizes are in "
    "pixels only",
)


def _regions(dataset: Any) -> list[Any]:
    """Return the two-dimensional ultrasound regions, the largest first."""
    regions = [
        region
        for region in dataset.get("SequenceOfUltrasoundRegions") or []
        if region.get("RegionSpatialFormat", _TWO_DIMENSIONAL) == _TWO_DIMENSIONAL
    ]
    return sorted(regions, key=lambda region: area(_bounds(region)), reverse=True)


def _bounds(region: Any) -> tuple[int, int, int, int]:
    names = ("MinY0", "MinX0", "MaxY1", "MaxX1")
    found = [numbers_of(region, f"RegionLocation{name}") for name in names]
    top, left, last_row, last_column = (int(numbers[0]) if numbers else 0 for numbers in found)
    return top, left, last_row + 1, last_column + 1


def largest_region(dataset: Any, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return (top, left, bottom, right) of the largest two-dimensional region of (H, W) frames.

    ``None`` where none is stated, it is the whole image, or no part of it.
    """
    regions = _regions(dataset)
    if not regions or "RegionLocationMaxX1" not in regions[0]:
        return None
    top, left, bottom, right = _bounds(regions[0])
    bottom, right = min(bottom, size[0]), min(right, size[1])
    whole = (top, left, bottom, right) == (0, 0, *size)
    too_small = bottom - top < 2 or right - left < 2 or top < 0 or left < 0
    return None if whole or too_small else (top, left, bottom, right)


def scale_of(
    dataset: Any, size: tuple[int, int]
) -> tuple[PixelScale, tuple[PredictionWarning, ...]]:
    """Return the scales of regions and PixelSpacing for (H, W) frames, and what is wrong."""
    found = numbers_of(dataset, "PixelSpacing")
    stated = (found[0], found[1]) if len(found) == 2 and min(found) > 0 else None
    regions = list(dataset.get("SequenceOfUltrasoundRegions") or [])
    if len(regions) > _MAX_REGIONS:
        return PixelScale(), (_TOO_MANY_REGIONS,)
    if regions:
        return PixelScale(stated, tuple(_scale_region(region, size) for region in regions)), ()
    believed = stated and believed_spacing(*stated)
    return PixelScale(believed), (_NOT_BELIEVED,) if stated and not believed else ()


def _scale_region(region: Any, size: tuple[int, int]) -> ScaleRegion:
    """Return where a region lies, everywhere if that is not stated, and its scale."""
    (flags,) = numbers_of(region, "RegionFlags")[:1] or [0]
    located = "RegionLocationMaxX1" in region and "RegionLocationMaxY1" in region
    bounds = _bounds(region) if located else (0, 0, *size)
    return ScaleRegion(bounds, _region_spacing(region), not int(flags) & _LOW_PRIORITY)


def _region_spacing(region: Any) -> Spacing | None:
    if region.get("RegionSpatialFormat", _TWO_DIMENSIONAL) != _TWO_DIMENSIONAL:
        return None
    if region.get("RegionDataType", _TISSUE_OR_FLOW[0]) not in _TISSUE_OR_FLOW:
        return None
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    deltas = numbers_of(region, "PhysicalDeltaY") + numbers_of(region, "PhysicalDeltaX")
    if units != (_CENTIMETRES, _CENTIMETRES) or len(deltas) != 2:
        return None
    rows, columns = (_CM_IN_MM * abs(delta) for delta in deltas)
    # its unit is stated: 1 by 1 is no lack of a scale here, as it is of PixelSpacing
    return (rows, columns) if rows > 0 and columns > 0 else None
