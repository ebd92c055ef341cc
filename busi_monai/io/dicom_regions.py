"""Ultrasound regions of a DICOM file and their scales (PS3.3 C.8.5.5)."""

from __future__ import annotations

from typing import Any

from busi_monai.cases import PredictionWarning
from busi_monai.io.dicom_grey import numbers_of
from busi_monai.io.pixel_scales import PixelScale, ScaleRegion, Spacing, believed_spacing

__all__ = ["largest_region", "scale_of"]

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
    return sorted(regions, key=_region_area, reverse=True)


def _region_area(region: Any) -> int:
    top, left, bottom, right = _bounds(region)
    return max(bottom - top, 0) * max(right - left, 0)


def _bounds(region: Any) -> tuple[int, int, int, int]:
    names = ("MinY0", "MinX0", "MaxY1", "MaxX1")
    found = [numbers_of(region, f"RegionLocation{name}") for name in names]
    top, left, last_row, last_column = (int(numbers[0]) if numbers else 0 for numbers in found)
    return top, left, last_row + 1, last_column + 1


def largest_region(dataset: Any, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return (top, left, bottom, right) of the largest two-dimensional region.

    ``None`` where none is stated, it is the whole image, or no part of it.

    Args:
        dataset: from ``pydicom``.
        size: (H, W) of a frame.
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
    """Return the scales of the ultrasound regions beside that of PixelSpacing, and what is wrong.

    Args:
        dataset: from ``pydicom``.
        size: (H, W) of a frame.
    """
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
