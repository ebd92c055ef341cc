"""Single entries of annotation files: from what a file says to an outline, or why there is none."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_monai.outlines import Outline, Point, unpacked_runs

__all__ = ["coco_outline", "entry_id", "labelme_points", "stated_size", "yolo_polygon"]

_BEYOND_ANY_IMAGE = 1e9
_POINTS = "expected at least 3 of a polygon, 2 of a rectangle or circle"


def coco_outline(
    path: Path, label: str, entry: Mapping[str, Any], size: tuple[int, int] | None
) -> Outline:
    """Return the outline of an annotation of COCO: polygons, or run lengths, packed or not.

    Args:
        path: the annotation file.
        label: how messages name the entry.
        entry: the annotation; its ``segmentation`` may also be one flat list of numbers.
        size: (H, W) of the image as the file states it.

    Raises:
        ValueError: if there is no outline, or it cannot be used.
    """
    drawn = entry.get("segmentation")
    if isinstance(drawn, Mapping):
        counts = drawn.get("counts")
        numbers = counts if isinstance(counts, list) else []
        runs = unpacked_runs(counts) if isinstance(counts, str) else list(map(_whole, numbers))
        stated = drawn.get("size")
        if isinstance(stated, list) and len(stated) == 2:
            size = stated_size(*stated) or size
        expected = sum(runs) if size is None else size[0] * size[1]
        if not runs or min(runs) < 0 or sum(runs) != expected:
            told = "" if size is None else f", expected {size[1]}×{size[0]}"
            raise ValueError(f"run lengths fill {sum(runs)} pixels{told}")
        return Outline(path, label, runs=tuple(runs), size=size)
    if not isinstance(drawn, list) or not drawn:
        raise ValueError("no polygon and no run lengths; a box is no outline")
    polygons = drawn if any(isinstance(part, list) for part in drawn) else [drawn]
    return Outline(path, label, tuple(map(_pairs, polygons)), size=size)


def labelme_points(shape: Mapping[str, Any]) -> tuple[Point, ...]:
    """Return the corners of a shape of LabelMe: a polygon, a rectangle or a circle."""
    kind = shape.get("shape_type") or "polygon"
    stated = shape.get("points")
    points = [_point(value) for value in stated] if isinstance(stated, list) else []
    if kind == "rectangle" and len(points) >= 2:
        (left, top), (right, bottom) = points[0], points[-1] if len(points) == 2 else points[2]
        return (left, top), (right, top), (right, bottom), (left, bottom)
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [math.tau * step / 64 for step in range(64)]
        return tuple((x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns)
    if kind not in ("polygon", "rectangle", "circle"):
        raise ValueError(f"a {_shown(kind)} is no outline; expected polygon, rectangle or circle")
    if kind != "polygon" or len(points) < 3:
        raise ValueError(f"a {kind} of {len(points)} points; {_POINTS}")
    return tuple(points)


def yolo_polygon(line: str) -> tuple[Point, ...]:
    """Return the polygon of a line, in fractions of the image; the category comes before it."""
    category, *rest = line.split()
    _whole(category)
    if len(rest) == 4:
        raise ValueError("a box is no outline; expected a polygon: class x1 y1 x2 y2 x3 y3 …")
    polygon = _pairs(rest)
    if any(abs(value) > 2 for point in polygon for value in point):
        raise ValueError("x and y above 2; expected fractions of the image's width and height")
    return polygon


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """Return (H, W) in pixels where both are numbers of at least 1."""
    sides = [
        int(side)
        for side in (height, width)
        if isinstance(side, int | float) and math.isfinite(side) and side >= 1
    ]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def entry_id(value: object) -> str | None:
    """Return an id as text, so that 3, 3.0 and "3" are one, or ``None`` where it can be no id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def _pairs(numbers: object) -> tuple[Point, ...]:
    values = list(map(_number, numbers)) if isinstance(numbers, list) else []
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"a polygon of {len(values)} numbers; expected x and y of at least 3 points"
        )
    return tuple(zip(values[::2], values[1::2], strict=True))


def _point(value: object) -> Point:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ValueError(f"the point {_shown(value)}; expected x and y")
    return _number(value[0]), _number(value[1])


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{_shown(value)} is no number") from None
    if not abs(number) < _BEYOND_ANY_IMAGE:
        raise ValueError(f"{_shown(value)} is no place in an image")
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError(f"{_shown(value)} is no whole number")
    return int(number)


def _shown(value: object) -> str:
    return reprlib.repr(value)
