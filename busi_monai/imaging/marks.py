"""Where a scanner's marks are in an image, pixel by pixel, and the image without them.

Marks are text, caliper crosses (upright, diagonal, or asterisks) with their numbers, and the dotted
lines between them. Crosses are found by their shapes, drawn here at several sizes: bright arms that
stand out from what lies between them. A scanner burns every cross of a kind alike, so that a faint
one counts beside another of its shape, and alone only a clear one. Frames, arrows, logos and scales
are not sought; crosses over bright tissue are missed most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.imaging.ink import Glyph, ink_mask, letters, text_lines

__all__ = ["inpaint_marks", "marks_mask"]

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

_HAT_PX = 9  # marks are thinner than this
_BORDER = 16  # reach of the largest cross
_D = 0.75  # a diagonal arm's sides as a part of an upright arm
_UPRIGHT, _DIAGONAL = ((1.0, 0.0), (0.0, 1.0)), ((_D, _D), (_D, -_D))
_SHAPES = {
    "+": (_UPRIGHT, (4, 5, 6, 7, 8, 10)),
    "x": (_DIAGONAL, (5, 6, 7, 8)),
    "x|": ((*_DIAGONAL, (0.0, 1.0)), (6, 7, 8)),
    "x-": ((*_DIAGONAL, (1.0, 0.0)), (6, 7, 8)),
}
"""Directions of the arms of each kind of cross, and their lengths in pixels."""

_CLEAR = (0.84, 0.18)  # least likeness and contrast of a cross by itself
_PAIRED = (0.70, 0.11)  # of one beside another of its kind and size


class _Cross(NamedTuple):
    kind: str
    arm: int
    x: int
    y: int
    likeness: float  # correlation with its shape
    contrast: float  # of the faintest arm to what lies between the arms


def inpaint_marks(pixels: Pixels, mask: Mask) -> Pixels:
    """Return (H, W) ``pixels`` with what the mask covers filled from around, in 8 bits there.

    Args:
        pixels: in [0, 1].
        mask: (H, W) from ``marks_mask``.

    References:
        A. Telea, An image inpainting technique based on the fast marching method, 2004.
    """
    grey = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    filled = cv2.inpaint(grey, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return np.where(mask, filled.astype(np.float32) / 255, pixels)


def marks_mask(pixels: Pixels) -> Mask:
    """Return (H, W) bool, true on burned-in marks and a pixel around them.

    Args:
        pixels: (H, W) in [0, 1], at native size.

    Examples:
        >>> image = np.full((120, 160), 0.2, np.float32)
        >>> image[60, 73:88] = image[53:68, 80] = 0.9
        >>> mask = marks_mask(image)
        >>> bool(mask[60, 73:88].all()), bool(mask[:40].any())
        (True, False)
    """
    hat = cv2.morphologyEx(pixels, cv2.MORPH_TOPHAT, np.ones((_HAT_PX, _HAT_PX), np.uint8))
    ink = ink_mask(pixels)
    mask = np.zeros(pixels.shape, bool)
    for line in text_lines(pixels, ink):
        _take_text(mask, hat, line)
    text = _grown(mask, 2)
    crosses = _crosses(pixels, np.where(text, 0, hat))
    for cross in crosses:
        _take_cross(mask, pixels, hat, cross)
    for one, other in _pairs(crosses):
        _take_dots(mask, pixels, one, other)
    return _grown(mask, 1)


def _grown(mask: Mask, by: int) -> Mask:
    side = 2 * by + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def _take_text(mask: Mask, hat: Pixels, line: Sequence[Glyph]) -> None:
    """Take what stands out between a line's first and last letter, and one letter beyond."""
    height = max(glyph.height for glyph in line)
    left = max(0, min(glyph.left for glyph in line) - height)
    right = max(glyph.left + glyph.width for glyph in line) + height
    top = max(0, min(glyph.top for glyph in line) - 1)
    box = slice(top, max(glyph.top + glyph.height for glyph in line) + 1), slice(left, right)
    mask[box] |= hat[box] >= 0.12


def _crosses(pixels: Pixels, hat: Pixels) -> list[_Cross]:
    """Return the crosses that are clear, or paired with another of the same shape."""
    found = [
        cross
        for cross in _candidates(pixels, hat)
        if cross.likeness >= _PAIRED[0] and cross.contrast >= _PAIRED[1]
    ]
    return [
        cross
        for cross in found
        if (cross.likeness >= _CLEAR[0] and cross.contrast >= _CLEAR[1])
        or any(_alike(cross, other) for other in found if other is not cross)
    ]


def _alike(one: _Cross, other: _Cross) -> bool:
    return one.kind == other.kind and abs(one.arm - other.arm) <= 1


def _pairs(crosses: Sequence[_Cross]) -> Iterator[tuple[_Cross, _Cross]]:
    for index, one in enumerate(crosses):
        yield from ((one, other) for other in crosses[index + 1 :] if _alike(one, other))


def _candidates(pixels: Pixels, hat: Pixels) -> Iterator[_Cross]:
    """Yield the places that are more like a cross than those around them."""
    height, width = hat.shape
    # cut off, so that a bright dot does not outweigh the arms
    padded = cv2.copyMakeBorder(np.minimum(hat, 0.6), *[_BORDER] * 4, cv2.BORDER_CONSTANT)
    grey = cv2.copyMakeBorder(pixels, *[_BORDER] * 4, cv2.BORDER_REFLECT)
    best = np.zeros(hat.shape, np.float32)
    shape = np.zeros(hat.shape, np.intp)
    for index, (_, _, template) in enumerate(_templates()):
        start = _BORDER - len(template) // 2
        likeness = cv2.matchTemplate(padded, template, cv2.TM_CCOEFF_NORMED)
        likeness = likeness[start : start + height, start : start + width]
        better = likeness > best
        best[better], shape[better] = likeness[better], index
    peaks = (best >= _PAIRED[0]) & (best == cv2.dilate(best, np.ones((7, 7), np.uint8)))
    for y, x in np.argwhere(peaks).tolist():
        kind, arm, template = _templates()[shape[y, x]]
        reach = len(template) // 2
        row, column = y + _BORDER, x + _BORDER
        around = grey[row - reach : row + reach + 1, column - reach : column + reach + 1]
        steps = np.arange(1, arm + 1)
        arms = [
            float(grey[_at(row, s * dy * steps), _at(column, s * dx * steps)].mean())
            for dx, dy in _SHAPES[kind][0]
            for s in (1, -1)
        ]
        contrast = min(arms) - float(np.percentile(around[template < 20], 75))
        yield _Cross(kind, arm, x, y, float(best[y, x]), contrast)


def _at(start: int, steps: NDArray[np.float64]) -> NDArray[np.intp]:
    return start + np.round(steps).astype(np.intp)


@cache
def _templates() -> list[tuple[str, int, Pixels]]:
    """Return the kinds of cross and arm lengths with a picture of each, from 0 to 255."""
    fine = 8
    drawn = []
    for kind, (directions, lengths) in _SHAPES.items():
        for arm in lengths:
            for stroke in (1.2, 2.2) if arm > 4 and len(kind) == 1 else (1.2,):
                side = 2 * (arm + 2) + 1
                canvas = np.zeros((side * fine, side * fine), np.uint8)
                middle = (side * fine - 1) / 2
                for dx, dy in directions:
                    ends = (
                        (round(middle + s * arm * fine * dx), round(middle + s * arm * fine * dy))
                        for s in (1, -1)
                    )
                    cv2.line(canvas, *ends, 255, round(stroke * fine))
                small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
                drawn.append((kind, arm, cv2.GaussianBlur(small.astype(np.float32), (0, 0), 0.6)))
    return drawn


def _take_cross(mask: Mask, pixels: Pixels, hat: Pixels, cross: _Cross) -> None:
    """Take a cross and the letters beside it."""
    for dx, dy in _SHAPES[cross.kind][0]:
        step = round((cross.arm + 1) * dx), round((cross.arm + 1) * dy)
        canvas = np.zeros(mask.shape, np.uint8)
        start, end = (cross.x - step[0], cross.y - step[1]), (cross.x + step[0], cross.y + step[1])
        cv2.line(canvas, start, end, 1, 2)
        mask |= canvas > 0
    reach = 3 * cross.arm + 6
    top, left = max(0, cross.y - reach), max(0, cross.x - reach)
    near = slice(top, cross.y + reach + 1), slice(left, cross.x + reach + 1)
    bright = (hat[near] >= max(0.12, 0.7 * cross.contrast)) & ~_grown(mask[near], 1)
    for glyph, piece in letters(pixels[near], bright, step=max(0.12, 0.8 * cross.contrast)):
        if 5 <= glyph.height <= 2.5 * cross.arm + 3:
            mask[near] |= piece


def _take_dots(mask: Mask, pixels: Pixels, one: _Cross, other: _Cross) -> None:
    """Take the line between two crosses if it is brighter than what lies on either side of it."""
    start, end = np.asarray((one.x, one.y)), np.asarray((other.x, other.y))
    length = float(np.hypot(*(end - start)))
    inside = np.arange(one.arm + 3, length - other.arm - 2) / max(length, 1)
    if len(inside) < 10:
        return
    along = (end - start) / length
    across = np.asarray((-along[1], along[0]))
    places = start + inside[:, None] * (end - start)

    def grey(offset: float) -> Pixels:
        x, y = np.round(places + offset * across).astype(np.intp).T
        return pixels[y.clip(0, len(pixels) - 1), x.clip(0, pixels.shape[1] - 1)]

    line = np.max([grey(offset) for offset in (-1, 0, 1)], axis=0)
    flanks = np.max([grey(offset) for offset in (-4, -3, 3, 4)], axis=0)
    rise = cv2.dilate(line - flanks, np.ones((5, 1), np.uint8))
    if (rise >= 0.08).mean() >= 0.8:
        canvas = np.zeros(mask.shape, np.uint8)
        cv2.line(canvas, (one.x, one.y), (other.x, other.y), 1, 2)
        mask |= canvas > 0
