"""Marks drawn into an image: caliper crosses with dotted lines between, and a line of text.

Marks are drawn at three times the size and averaged down, so that they look as a scanner's do after
the resize to network size: strokes of about a pixel, softened at their edges. Places are parts of
the width and height, lengths parts of the shorter side, so that one description fits every size.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Calipers", "TextLine", "draw_calipers", "draw_text"]

_FINE = 3  # strokes are drawn at this many times the size
_DOTS = 4  # strokes from one dot of a line to the next
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Calipers(NamedTuple):
    """Two pairs of crosses, at the ends of the two axes of an ellipse.

    Args:
        centre: (x, y) of the ellipse.
        axes: full lengths of its axes.
        angle: of its first axis, in degrees.
        arm: of a cross, from its middle.
        stroke: width of the lines.
        grey: grey value.
        diagonal: for each axis, whether its crosses are an x instead of a +.
        dotted: whether a line of dots joins the two crosses of an axis.
        numbered: whether a digit stands beside the first cross of each axis.
    """

    centre: tuple[float, float]
    axes: tuple[float, float]
    angle: float
    arm: float
    stroke: float
    grey: float
    diagonal: tuple[bool, bool] = (False, False)
    dotted: bool = False
    numbered: bool = False


class TextLine(NamedTuple):
    """A line of text in ASCII, cut off where it sticks out of the image.

    Args:
        text: what is written.
        place: (x, y) of its lower left corner.
        height: of its letters.
        stroke: width of the lines.
        grey: grey value.
    """

    text: str
    place: tuple[float, float]
    height: float
    stroke: float
    grey: float


def draw_calipers(pixels: NDArray[np.float32], calipers: Calipers) -> NDArray[np.float32]:
    """Return a copy of (H, W) ``pixels`` in [0, 1] with calipers.

    Examples:
        >>> calipers = Calipers((0.5, 0.5), (0.6, 0.4), angle=0, arm=0.05, stroke=0.02, grey=0.9)
        >>> marked = draw_calipers(np.zeros((100, 100), np.float32), calipers)
        >>> round(float(marked[50, 20]), 1), float(marked[50, 50])  # the left end, the middle
        (0.9, 0.0)
    """
    canvas, side, stroke = _canvas(pixels, calipers.stroke)
    height, width = pixels.shape
    centre = np.asarray(calipers.centre) * (width, height) * _FINE
    arm = calipers.arm * side
    for number, (length, diagonal) in enumerate(zip(calipers.axes, calipers.diagonal, strict=True)):
        angle = np.deg2rad(calipers.angle + 90 * number)
        half = np.asarray((np.cos(angle), np.sin(angle))) * length / 2 * side
        ends = centre - half, centre + half
        across = np.asarray((arm, arm) if diagonal else (arm, 0)) * (0.7 if diagonal else 1)
        for end in ends:
            for stretch in (across, across[::-1] * (1, -1)):
                cv2.line(canvas, _point(end - stretch), _point(end + stretch), 255, stroke)
        if calipers.dotted:
            for part in np.arange(0, 1, _DOTS * stroke / max(length * side, 1)):
                corner = _point(ends[0] + 2 * half * part)
                cv2.rectangle(canvas, (*corner, stroke, stroke), 255, -1)
        if calipers.numbered:
            place = ends[0] + (-2.5 * arm, -arm)
            _write(canvas, str(number + 1), _point(place), 1.5 * arm, stroke)
    return _laid_over(pixels, canvas, calipers.grey)


def draw_text(pixels: NDArray[np.float32], line: TextLine) -> NDArray[np.float32]:
    """Return a copy of (H, W) ``pixels`` in [0, 1] with a line of text."""
    canvas, side, stroke = _canvas(pixels, line.stroke)
    place = np.asarray(line.place) * (pixels.shape[1], pixels.shape[0]) * _FINE
    _write(canvas, line.text, _point(place), line.height * side, stroke)
    return _laid_over(pixels, canvas, line.grey)


def _canvas(pixels: NDArray[np.float32], stroke: float) -> tuple[NDArray[np.uint8], int, int]:
    """Return an empty canvas, its shorter side and the width of a stroke on it."""
    height, width = pixels.shape
    side = min(height, width) * _FINE
    return np.zeros((height * _FINE, width * _FINE), np.uint8), side, max(1, round(stroke * side))


def _write(
    canvas: NDArray[np.uint8], text: str, place: tuple[int, int], height: float, stroke: int
) -> None:
    scale = cv2.getFontScaleFromHeight(_FONT, max(1, round(height)), stroke)
    cv2.putText(canvas, text, place, _FONT, scale, 255, stroke)


def _point(place: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(place[0])), round(float(place[1]))


def _laid_over(
    pixels: NDArray[np.float32], canvas: NDArray[np.uint8], grey: float
) -> NDArray[np.float32]:
    """Return ``pixels`` with ``grey`` where the canvas, averaged down, is drawn upon."""
    size = pixels.shape[1], pixels.shape[0]
    covered = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return pixels * (1 - covered) + np.float32(grey) * covered
