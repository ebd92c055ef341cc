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
    "+": (_UPRIGHT, 1, (4, 5, 6, 7, 8, 10)),
    "x": (_DIAGONAL, 1, (5, 6, 7, 8)),
    "x|": ((*_DIAGONAL, (0.0, 1.0)), 1, (6, 7, 8)),
    "x-": ((*_DIAGONAL, (1.0, 0.0)), 1, (6, 7, 8)),
    "open +": (_UPRIGHT, 2.5, (5, 6)),
    "open x": (_DIAGONAL, 2.5, (6, 7)),
}
"""Of each kind of cross the directions of its arms, where they begin, and how long they are, px."""

_CLEAR, _STRONG, _FAINT = 1.05, 0.94, 0.81
"""Likeness and contrast together of a cross by itself, beside a clear one, and of one of few."""

_FEW = 4  # crosses of one shape, at the ends of two axes; more faint ones are speckle
_LEAST = (0.65, 0.1)  # likeness and contrast


class _Cross(NamedTuple):
    kind: str
    arm: int
    x: int
    y: int
    likeness: float  # correlation with its shape
    contrast: float  # of the faintest arm to what lies between the arms

    @property
    def score(self) -> float:
        return self.likeness + self.contrast if self.contrast >= _LEAST[1] else 0.0


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
    _take_words(mask, pixels, hat)
    text = _grown(mask, 2)
    crosses = _crosses(pixels, np.where(text, 0, hat))
    for cross in crosses:
        _take_cross(mask, pixels, hat, cross)
    for one, other in _pairs(crosses):
        _take_dots(mask, pixels, hat, one, other)
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


def _take_words(mask: Mask, pixels: Pixels, hat: Pixels) -> None:
    """Take words whose letters touch: strokes that, closed up, fill a long box.

    A word has more strokes from left to right than a bright piece of tissue of that shape: 1.2 to
    2.8 in a box as long as it is high, tissue up to 1.0 on the images looked at.
    """
    fall = [pixels - cv2.erode(pixels, np.ones(side, np.uint8)) for side in ((1, 7), (7, 1))]
    for step in (0.1, 0.15, 0.2):
        strokes = np.min([hat, *fall], axis=0) >= step
        closed = cv2.morphologyEx(
            strokes.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 7), np.uint8)
        )
        _, _, boxes, _ = cv2.connectedComponentsWithStats(closed, connectivity=4)
        for left, top, width, height, area in boxes[1:].tolist():
            if 6 <= height <= 24 and width >= 2 * height and area >= 0.66 * width * height:
                box = strokes[top : top + height, left : left + width].astype(np.int8)
                begun = (np.diff(box, axis=1, prepend=0) == 1).sum(axis=1)
                if np.median(begun) * height >= 1.15 * width:
                    rows = slice(max(0, top - 1), top + height + 1)
                    columns = slice(max(0, left - 2), left + width + 2)
                    mask[rows, columns] |= hat[rows, columns] >= 0.08


def _crosses(pixels: Pixels, hat: Pixels) -> list[_Cross]:
    """Return the crosses that are clear, or beside a clear one, or few and like each other."""
    found = [cross for cross in _candidates(pixels, hat) if cross.score >= _FAINT]
    crosses = []
    for cross in found:
        alike = [other.score for other in found if _alike(cross, other)]
        few = 2 <= len(alike) <= _FEW and max(alike) >= _STRONG
        beside = cross.score >= _STRONG and max(alike) >= _CLEAR
        if cross.score >= _CLEAR or few or beside:
            crosses.append(cross)
    return crosses


def _alike(one: _Cross, other: _Cross) -> bool:
    same = one.kind.removeprefix("open ") == other.kind.removeprefix("open ")
    return same and abs(one.arm - other.arm) <= max(1, (one.arm + other.arm) // 6)


def _pairs(crosses: Sequence[_Cross]) -> Iterator[tuple[_Cross, _Cross]]:
    for index, one in enumerate(crosses):
        yield from ((one, other) for other in crosses[index + 1 :] if _alike(one, other))


def _candidates(pixels: Pixels, hat: Pixels) -> Iterator[_Cross]:
    """Yield the places that are more like a cross than those around them."""
    height, width = hat.shape
    # cut off, so that a bright dot does not outweigh the arms
    padded = np.pad(np.minimum(hat, 0.6), _BORDER).astype(np.float32)
    grey = np.pad(pixels, _BORDER, mode="symmetric")
    best = np.zeros(hat.shape, np.float32)
    shape = np.zeros(hat.shape, np.intp)
    for index, (_, _, template) in enumerate(_templates()):
        corner = _BORDER - len(template) // 2
        likeness = cv2.matchTemplate(padded, template, cv2.TM_CCOEFF_NORMED)
        likeness = likeness[corner : corner + height, corner : corner + width]
        better = likeness > best
        best[better], shape[better] = likeness[better], index
    peaks = (best >= _LEAST[0]) & (best == cv2.dilate(best, np.ones((7, 7), np.uint8)))
    for y, x in np.argwhere(peaks).tolist():
        kind, arm, template = _templates()[shape[y, x]]
        reach = len(template) // 2
        row, column = y + _BORDER, x + _BORDER
        around = grey[row - reach : row + reach + 1, column - reach : column + reach + 1]
        directions, start, _ = _SHAPES[kind]
        steps = np.arange(start, arm + 1)
        arms = [
            float(grey[_at(row, s * dy * steps), _at(column, s * dx * steps)].mean())
            for dx, dy in directions
            for s in (1, -1)
        ]
        contrast = min(arms) - float(np.percentile(around[template < 20], 75))
        yield _Cross(kind, arm, x, y, float(best[y, x]), contrast)


def _at(start: int, steps: NDArray[np.float64]) -> NDArray[np.intp]:
    return start + np.round(steps).astype(np.intp)


@cache
def _templates() -> list[tuple[str, int, Pixels]]:
    """Return the kinds of cross and arm lengths with a image of each, from 0 to 255."""
    fine = 8
    drawn = []
    for kind, (directions, start, lengths) in _SHAPES.items():
        for arm in lengths:
            for stroke in (1.2, 2.2) if arm > 4 and len(directions) == 2 else (1.2,):
                side = 2 * (arm + 2) + 1
                canvas = np.zeros((side * fine, side * fine), np.uint8)
                for direction in directions:
                    for sign in (1, -1):
                        arm_ends = np.outer((start if start > 1 else 0, arm), direction) * sign
                        ends = np.round(side * fine / 2 + arm_ends * fine).astype(int).tolist()
                        cv2.line(canvas, ends[0], ends[1], 255, round(stroke * fine))
                small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
                blurred = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 0.6)
                drawn.append((kind, arm, blurred))
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


def _take_dots(mask: Mask, pixels: Pixels, hat: Pixels, one: _Cross, other: _Cross) -> None:
    """Take the dots between two crosses if what is there is brighter than on either side of it."""
    start, end = np.asarray((one.x, one.y)), np.asarray((other.x, other.y))
    length = max(1.0, float(np.hypot(*(end - start))))
    inside = np.arange(one.arm + 3, length - other.arm - 2) / length
    if len(inside) < 10:
        return
    x_step, y_step = (end - start) / length

    def greys(offsets: Sequence[int]) -> Pixels:
        places = start + inside[:, None] * (end - start)
        x, y = np.round(places.T[..., None] + np.outer((-y_step, x_step), offsets)[:, None])
        rows, columns = y.clip(0, len(pixels) - 1), x.clip(0, pixels.shape[1] - 1)
        return pixels[rows.astype(np.intp), columns.astype(np.intp)]

    line, flanks = greys((-2, -1, 0, 1, 2)).max(axis=1), greys((-5, -4, 4, 5)).mean(axis=1)
    rise = cv2.dilate((line - flanks)[:, None], np.ones((5, 1), np.uint8))
    if rise.mean() >= 0.2 and (rise >= 0.08).mean() >= 0.75:
        corridor = np.zeros(mask.shape, np.uint8)
        cv2.line(corridor, start.tolist(), end.tolist(), 1, 5)
        mask |= (corridor > 0) & (hat >= 0.06)
