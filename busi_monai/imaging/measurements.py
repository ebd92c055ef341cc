"""How large a lesion is: area, longest diameter and the one across it, in pixels or millimetres."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from busi_monai.cases import PredictionWarning
from busi_monai.io.pixel_scales import NO_SCALE, NoScale, PixelScale, Spacing, same_spacing

__all__ = ["LesionSize", "lesion_diameters", "lesion_size"]


@dataclass(frozen=True)
class LesionSize:
    """How large the lesion of an image is.

    Attributes:
        diameters_px: (long, short) axis of its largest region, ``None`` for an empty mask.
        diameters_mm: the same in millimetres, ``None`` where that region's scale is unknown.
        area_mm2: of all regions together, each by its own scale; ``None`` where one has none.
        spacing_mm: (row, column) scale of the largest region, or ``None``; of an empty mask the
            only scale of the image.
        mask_mm: the same if it holds for all regions.
        warnings: why a size is in pixels only, and which scale was not believed.
    """

    diameters_px: tuple[float, float] | None
    diameters_mm: tuple[float, float] | None
    area_mm2: float | None
    spacing_mm: Spacing | None
    mask_mm: Spacing | None
    warnings: tuple[PredictionWarning, ...] = ()


def lesion_size(mask: ArrayLike, scale: PixelScale) -> LesionSize:
    """Measure a lesion, each of its regions (8-connected) by the scale of where it lies.

    Millimetres hold for a region all of whose pixels have one scale: it lies in one ultrasound
    region, or in several of equal scale. Otherwise it has a size in pixels only.

    Args:
        mask: (H, W), non-zero on the lesion.
        scale: of the image, of the same height and width.

    Examples:
        >>> from busi_monai.io.pixel_scales import ScaleRegion
        >>> views = (ScaleRegion((0, 0, 20, 30), (0.1, 0.1)), ScaleRegion((0, 30, 20, 60), (1, 1)))
        >>> lesion = np.zeros((20, 60), dtype=bool)
        >>> lesion[5:8, 40:44] = True  # 3 rows, 4 columns, in the right view
        >>> size = lesion_size(lesion, PixelScale(regions=views))
        >>> size.diameters_mm, size.area_mm2
        ((5.0, 4.8), 12.0)
        >>> lesion[5:8, 28:44] = True  # across both
        >>> size = lesion_size(lesion, PixelScale(regions=views))
        >>> size.diameters_mm, [warning.code for warning in size.warnings]
        (None, ['scale_differs'])
    """
    binary = (np.asarray(mask) > 0).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    if count == 1:
        common = scale.common_mm
        return LesionSize(None, None, 0.0 if common else None, common, common)
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + int(np.argmax(areas))
    spacings = scale.spacings
    found = _scales_of_regions(labels, count, scale) if spacings or scale.regions else []
    own = [spacings[next(iter(s))] if len(s) == 1 and min(s) >= 0 else None for s in found]
    spacing = own[largest - 1] if own else None
    known = [one for one in own if one is not None]
    whole = bool(own) and len(known) == len(own)
    one_scale = whole and all(same_spacing(one, known[0]) for one in known)
    return LesionSize(
        diameters_px=_diameters(labels == largest),
        diameters_mm=_diameters(labels == largest, spacing) if spacing else None,
        area_mm2=sum(float(n) * y * x for n, (y, x) in zip(areas, known, strict=True))
        if whole
        else None,
        spacing_mm=spacing,
        mask_mm=known[0] if one_scale else None,
        warnings=tuple(_warnings(found, known, scale)),
    )


def _scales_of_regions(
    labels: NDArray[np.int32], count: int, scale: PixelScale
) -> list[frozenset[int]]:
    """Return which values of the scale map each region of a mask, from 1 on, lies on."""
    inside = labels > 0
    pairs = np.stack([labels[inside], scale.as_map(labels.shape)[inside]], axis=1)
    values: list[set[int]] = [set() for _ in range(count - 1)]
    for label, value in np.unique(pairs, axis=0).tolist():
        values[label - 1].add(value)
    return [frozenset(found) for found in values]


def _warnings(
    found: Iterable[frozenset[int]], known: Iterable[Spacing], scale: PixelScale
) -> Iterable[PredictionWarning]:
    reasons: dict[str, str] = {}
    for values in found:
        missing = [value for value in values if value < 0]
        if missing:
            reason = NoScale(min(missing))
            reasons[f"scale_{reason.name.lower()}"] = NO_SCALE[reason]
        elif len(values) > 1:
            reasons["scale_differs"] = "the lesion reaches across regions of different scale"
    for code, text in reasons.items():
        yield PredictionWarning(code, f"{text}, so that it is measured in pixels only")
    stated = scale.spacing_mm
    if stated and any(not same_spacing(stated, spacing) for spacing in known):
        yield PredictionWarning(
            "pixel_spacing_differs",
            "PixelSpacing differs from the scale of the ultrasound region that holds the lesion; "
            "sizes are by the region",
        )


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
    return _diameters(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), spacing)


def _diameters(found: NDArray[np.bool_], spacing: Spacing = (1.0, 1.0)) -> tuple[float, float]:
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
