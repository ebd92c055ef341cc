"""Ink: graphics that a scanner burned into the pixels, by their strokes.

Graphics differ from echoes in one thing that survives mild rescaling: they are bright and end
within a pixel or two, while speckle is as wide as the scanner's resolution. Letters are pieces of
ink that stand in a line, and caliper markers are upright crosses of four free arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Glyph", "count_crosses", "ink_mask", "letters", "text_lines"]

_INK_LEVEL = 0.45  # grey value from which a stroke is bright
_INK_STEP = 0.30  # fall of the grey value within two pixels of a stroke
_INK_TOPHAT = 0.25  # stands out from what is wider than a stroke
_STROKE_PX = 9

_GLYPH_HEIGHT = (6, 40)
_LETTERS = 3
_ARM_PX = (3, 25)  # shortest and longest
_FREE_CORNER = 0.25


class Glyph(NamedTuple):
    """The box of a letter: a piece of ink with hard edges to its sides."""

    left: int
    top: int
    width: int
    height: int
    area: int

    @property
    def middle(self) -> float:
        """The row of its middle."""
        return self.top + self.height / 2


def ink_mask(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return (H, W) bool, true on bright thin strokes with hard edges of ``pixels`` in [0, 1]."""
    tophat = cv2.morphologyEx(pixels, cv2.MORPH_TOPHAT, np.ones((_STROKE_PX, _STROKE_PX), np.uint8))
    fall = pixels - cv2.erode(pixels, np.ones((5, 5), np.uint8))
    ink: NDArray[np.bool_] = (pixels >= _INK_LEVEL) & (tophat >= _INK_TOPHAT) & (fall >= _INK_STEP)
    return ink


def text_lines(pixels: NDArray[np.float32], ink: NDArray[np.bool_]) -> list[list[Glyph]]:
    """Return the letters of each line of burned-in text.

    Letters are pieces of ink with edges to their left and right (bright tissue layers have them
    above and below only), near each other, of like height and on one level.
    """
    glyphs = sorted(glyph for glyph, _ in letters(pixels, ink))
    lines = []
    while glyphs:
        line = _line_from(glyphs)
        glyphs = [glyph for glyph in glyphs if glyph not in line]
        if len(line) >= _LETTERS:
            lines.append(line)
    return lines


def count_crosses(ink: NDArray[np.bool_]) -> int:
    """Return the number of upright crosses of ink: four short arms, at most one corner taken."""
    bar = 2 * _ARM_PX[0] + 1
    across = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, np.ones((1, bar), np.uint8))
    down = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, np.ones((bar, 1), np.uint8))
    crossings = across & down
    if not crossings.any():
        return 0
    boxes = _pieces(crossings)[1]
    return sum(_is_cross(ink, *(int(v) for v in box[:4])) for box in boxes[1:])


def _pieces(ink: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the pieces of ink, (H, W) labels from 1 on, and the box of each label, 0 included.

    As ``cv2.connectedComponentsWithStats``, which looks at every pixel again where few are ink.
    """
    count, labels = cv2.connectedComponents(ink.astype(np.uint8), connectivity=8)
    y, x = np.nonzero(ink)
    piece = labels[y, x]
    last, first = np.zeros((count, 2), np.int64), np.full((count, 2), max(ink.shape), np.int64)
    for axis, places in enumerate((x, y)):
        np.minimum.at(first[:, axis], piece, places)
        np.maximum.at(last[:, axis], piece, places + 1)
    areas = np.bincount(piece, minlength=count)
    return labels, np.column_stack([first, last - first, areas])


def _is_cross(ink: NDArray[np.bool_], left: int, top: int, width: int, height: int) -> bool:
    """Whether four arms of ink leave a crossing, given as a box, with free corners."""
    if max(width, height) > _STROKE_PX:
        return False
    row, column = ink[top + height // 2], ink[:, left + width // 2]
    arms = (
        _run(row[:left][::-1]),
        _run(row[left + width :]),
        _run(column[:top][::-1]),
        _run(column[top + height :]),
    )
    shortest = min(arms)
    if shortest < _ARM_PX[0] or max(arms) > _ARM_PX[1]:
        return False
    # a 4 is a cross with short arms to the right and below
    if any(max(pair) > 2 * min(pair) for pair in (arms[:2], arms[2:])):
        return False
    free = 0
    for rows in (slice(top - shortest, top - 1), slice(top + height + 1, top + height + shortest)):
        for columns in (
            slice(left - shortest, left - 1),
            slice(left + width + 1, left + width + shortest),
        ):
            free += bool(ink[rows, columns].mean() <= _FREE_CORNER)
    return free >= 3


def _run(line: NDArray[np.bool_]) -> int:
    """Return how many leading values are true."""
    gaps = np.flatnonzero(~line)
    return int(gaps[0]) if len(gaps) else len(line)


def letters(
    pixels: NDArray[np.float32], ink: NDArray[np.bool_], step: float = _INK_STEP
) -> Iterator[tuple[Glyph, NDArray[np.bool_]]]:
    """Yield the box of each piece of ink with edges to its sides, and its (H, W) mask.

    An edge is a fall of the grey value by ``step`` within two pixels to the left or right.
    """
    sideways = pixels - cv2.erode(pixels, np.ones((1, 5), np.uint8)) >= step
    labels, boxes = _pieces(ink)
    edged = np.bincount(labels[sideways & ink], minlength=len(boxes))
    for label, (box, edge) in enumerate(zip(boxes.tolist(), edged.tolist(), strict=True)):
        glyph = Glyph(*box)
        if (
            label > 0
            and _GLYPH_HEIGHT[0] <= glyph.height <= _GLYPH_HEIGHT[1]
            and glyph.width <= 1.6 * glyph.height
            and edge >= 0.5 * glyph.area
        ):
            yield glyph, labels == label


def _line_from(glyphs: Sequence[Glyph]) -> list[Glyph]:
    """Return the line that the leftmost glyph begins; ``glyphs`` are sorted from left to right."""
    line = [glyphs[0]]
    for glyph in glyphs[1:]:
        last = line[-1]
        gap = glyph.left - (last.left + last.width)
        alike = abs(glyph.height - last.height) <= 0.25 * max(glyph.height, last.height)
        level = abs(glyph.middle - last.middle) <= 0.2 * last.height
        if alike and level and -1 <= gap <= 1.5 * last.height:
            line.append(glyph)
    return line
