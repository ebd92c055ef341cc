"""How large the pixels of an image are in millimetres, where in it, and where nobody knows.

An ultrasound image may hold several regions of their own scale (PS3.3 C.8.5.5): two views, an
inset, a Doppler curve under the tissue. What lies in none of them has no scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NO_SCALE",
    "NO_SPACING",
    "NoScale",
    "PixelScale",
    "ScaleRegion",
    "Spacing",
    "area",
    "believed_spacing",
    "same_spacing",
]

Spacing = tuple[float, float]
"""(row, column) distance of pixels in millimetres."""

_TOLERANCE = 1e-3  # relative; files round their distances


class NoScale(IntEnum):
    """Why pixels have no scale, as they stand in a scale map."""

    OUTSIDE = -1
    NOT_LENGTHS = -2
    AMBIGUOUS = -3


NO_SCALE = {
    NoScale.OUTSIDE: "no region that is calibrated holds the whole lesion",
    NoScale.NOT_LENGTHS: "the lesion reaches into a region that states no lengths of a 2-D image",
    NoScale.AMBIGUOUS: "the lesion reaches into regions of different scale that overlap",
}
"""What each means for a lesion."""


@dataclass(frozen=True)
class ScaleRegion:
    """A rectangle of an image with a scale of its own.

    Attributes:
        bounds: (top, left, bottom, right) in pixels, the ends excluded; may reach beyond the image.
        spacing_mm: (row, column), or ``None`` if its axes are not two lengths.
        on_top: whether its pixels are drawn over those of the regions that it overlaps.
    """

    bounds: tuple[int, int, int, int]
    spacing_mm: Spacing | None
    on_top: bool = True

    def holds(self, other: ScaleRegion) -> bool:
        """Whether another region lies within this one and is smaller."""
        return self.bounds != other.bounds == _intersection(self.bounds, other.bounds)


@dataclass(frozen=True)
class PixelScale:
    """What a file states of the distances of its pixels.

    Attributes:
        spacing_mm: (row, column) for the image as a whole. Where there are regions, these decide,
            and it only serves to be compared with them.
        regions: rectangles that have a scale of their own.

    Examples:
        >>> left = ScaleRegion((0, 0, 20, 30), (0.1, 0.1))
        >>> right = ScaleRegion((0, 30, 20, 60), (0.2, 0.2))
        >>> scale = PixelScale(regions=(left, right))
        >>> scale.common_mm is None, scale.spacings
        (True, [(0.1, 0.1), (0.2, 0.2)])
        >>> scale.as_map((20, 70))[5, [29, 30, 69]].tolist()
        [0, 1, -1]
    """

    spacing_mm: Spacing | None = None
    regions: tuple[ScaleRegion, ...] = ()

    @property
    def spacings(self) -> list[Spacing]:
        """The different scales of the image, those that ``as_map`` counts through."""
        if not self.regions:
            return [] if self.spacing_mm is None else [self.spacing_mm]
        found: list[Spacing] = []
        for region in self.regions:
            if region.spacing_mm and _place(region.spacing_mm, found) is None:
                found.append(region.spacing_mm)
        return found

    @property
    def common_mm(self) -> Spacing | None:
        """The only scale that occurs in the image; ``None`` if there are none or several."""
        spacings = self.spacings
        return spacings[0] if len(spacings) == 1 else None

    def as_map(self, shape: tuple[int, int]) -> NDArray[np.int8]:
        """Return which of ``spacings`` each pixel has, or why none, see ``NoScale``.

        Where regions overlap, one drawn on top hides the others, and a smaller one hides that which
        holds it; if that decides nothing and their scales differ, the overlap is ambiguous.
        """
        spacings = self.spacings
        if not self.regions:
            return np.full(shape, 0 if spacings else NoScale.OUTSIDE, dtype=np.int8)
        drawn = np.full(shape, NoScale.OUTSIDE, dtype=np.int8)
        ordered = sorted(self.regions, key=lambda region: (region.on_top, -area(region.bounds)))
        for number, region in enumerate(ordered):
            value = _value(region, spacings)
            _fill(drawn, region.bounds, value)
            for earlier in ordered[:number]:
                hidden = region.on_top and not earlier.on_top
                if not hidden and not earlier.holds(region) and _value(earlier, spacings) != value:
                    overlap = _intersection(earlier.bounds, region.bounds)
                    _fill(drawn, overlap, NoScale.AMBIGUOUS)
        return drawn

    def to_json(self) -> str:
        """Return it as text, for metadata that batches carry."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PixelScale:
        """Return what ``to_json`` made a text of."""
        values = json.loads(text)
        regions = tuple(
            ScaleRegion(tuple(r["bounds"]), _spacing(r["spacing_mm"]), r["on_top"])
            for r in values["regions"]
        )
        return cls(_spacing(values["spacing_mm"]), regions)


NO_SPACING = PixelScale()
"""Of a file that states nothing."""


def believed_spacing(rows: float, columns: float) -> Spacing | None:
    """Return a stated scale in millimetres, ``None`` where it can be none.

    1 by 1 is what writers put where they know none, as ITK does; other scales than 1 nm to 1 m are
    no image's.
    """
    possible = all(1e-6 < distance < 1e3 for distance in (rows, columns))  # false for NaN
    return (rows, columns) if possible and (rows, columns) != (1.0, 1.0) else None


def same_spacing(one: Spacing, other: Spacing) -> bool:
    """Whether two scales are equal but for rounding."""
    return all(math.isclose(a, b, rel_tol=_TOLERANCE) for a, b in zip(one, other, strict=True))


def _place(spacing: Spacing, known: Collection[Spacing]) -> int | None:
    return next((n for n, other in enumerate(known) if same_spacing(spacing, other)), None)


def _value(region: ScaleRegion, spacings: list[Spacing]) -> int:
    place = _place(region.spacing_mm, spacings) if region.spacing_mm else None
    return NoScale.NOT_LENGTHS if place is None else place


def _spacing(values: list[float] | None) -> Spacing | None:
    return None if values is None else (values[0], values[1])


def area(bounds: tuple[int, int, int, int]) -> int:
    """Return the pixels within (top, left, bottom, right), none where these are reversed."""
    top, left, bottom, right = bounds
    return max(bottom - top, 0) * max(right - left, 0)


def _intersection(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    top, left = (max(pair) for pair in zip(one[:2], other[:2], strict=True))
    bottom, right = (min(pair) for pair in zip(one[2:], other[2:], strict=True))
    return top, left, bottom, right


def _fill(drawn: NDArray[np.int8], bounds: tuple[int, int, int, int], value: int) -> None:
    top, left, bottom, right = (max(side, 0) for side in bounds)
    drawn[top:bottom, left:right] = value  # empty where they are reversed
