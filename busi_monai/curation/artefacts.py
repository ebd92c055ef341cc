"""Graphics that a scanner burned into the pixels (text, calipers, colour), and odd grey levels.

Graphics differ from echoes in one thing that survives mild rescaling: they are bright and end
within a pixel or two, while speckle is as wide as the scanner's resolution. Such *ink* is found
first; letters standing in a line are text, and upright crosses of four free arms are caliper
markers. On BUSI nearly every flag is right; faint, tiny or overlapping graphics and diagonal
crosses are missed, the more of them the lower the resolution. The flags inform; nothing is removed
for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.io.grey_ranges import GREY_DEPTH, GREY_UNKNOWN
from busi_monai.io.images import LoadedImage

__all__ = ["ARTEFACT_KINDS", "count_crosses", "find_artefacts", "ink_mask", "text_lines"]

ARTEFACT_KINDS = {
    "colour": "real colour pixels: Doppler, coloured calipers or frames",
    "text": "burned-in text of three letters or more",
    "markers": "caliper crosses",
    "grey_depth": "values that use less of their range than the file states, read as fewer bits",
    "low_contrast": "hardly any contrast: nearly all pixels are of nearly one grey",
}
"""Kinds of artefact with what each means."""

_GUESSED = {GREY_DEPTH, GREY_UNKNOWN}
_LEAST_CONTRAST = 0.1  # between the darkest and the brightest 1 %; four real sets have 0.28 or more

_INK_LEVEL = 0.45  # grey value from which a stroke is bright
_INK_STEP = 0.30  # fall of the grey value within two pixels of a stroke
_INK_TOPHAT = 0.25  # stands out from what is wider than a stroke
_STROKE_PX = 9

_GLYPH_HEIGHT = (6, 40)
_LETTERS = 3
_ARM_PX = (3, 25)  # shortest and longest
_FREE_CORNER = 0.25


class _Glyph(NamedTuple):
    left: int
    top: int
    width: int
    height: int
    area: int

    @property
    def middle(self) -> float:
        return self.top + self.height / 2


def find_artefacts(image: LoadedImage) -> list[str]:
    """Return the kinds of artefact in an image, in the order of ``ARTEFACT_KINDS``."""
    ink = ink_mask(image.pixels)
    dark, bright = np.percentile(image.pixels, (1, 99))
    present = {
        "colour": image.has_colour,
        "text": bool(text_lines(image.pixels, ink)),
        "markers": count_crosses(ink) > 0,
        "grey_depth": any(warning.code in _GUESSED for warning in image.warnings),
        "low_contrast": float(dark) + _LEAST_CONTRAST > float(bright),
    }
    return [kind for kind in ARTEFACT_KINDS if present[kind]]


def ink_mask(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return (H, W) bool, true on bright thin strokes with hard edges.

    Args:
        pixels: (H, W) in [0, 1].
    """
    tophat = cv2.morphologyEx(pixels, cv2.MORPH_TOPHAT, np.ones((_STROKE_PX, _STROKE_PX), np.uint8))
    fall = pixels - cv2.erode(pixels, np.ones((5, 5), np.uint8))
    ink: NDArray[np.bool_] = (pixels >= _INK_LEVEL) & (tophat >= _INK_TOPHAT) & (fall >= _INK_STEP)
    return ink


def text_lines(pixels: NDArray[np.float32], ink: NDArray[np.bool_]) -> list[int]:
    """Return the number of letters of each line of burned-in text.

    Letters are pieces of ink with edges to their left and right (bright tissue layers have them
    above and below only), near each other, of like height and on one level.

    Args:
        pixels: (H, W) in [0, 1].
        ink: (H, W), from ``ink_mask``.
    """
    glyphs = sorted(_glyphs(pixels, ink))
    lengths = []
    while glyphs:
        line = _line_from(glyphs)
        glyphs = [glyph for glyph in glyphs if glyph not in line]
        if len(line) >= _LETTERS:
            lengths.append(len(line))
    return lengths


def count_crosses(ink: NDArray[np.bool_]) -> int:
    """Return the number of upright crosses of ink: four short arms, at most one corner taken.

    Args:
        ink: (H, W), from ``ink_mask``.
    """
    bar = 2 * _ARM_PX[0] + 1
    across = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, np.ones((1, bar), np.uint8))
    down = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, np.ones((bar, 1), np.uint8))
    crossings = across & down
    if not crossings.any():
        return 0
    _, _, boxes, _ = cv2.connectedComponentsWithStats(crossings, connectivity=8)
    return sum(_is_cross(ink, *(int(v) for v in box[:4])) for box in boxes[1:])


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


def _glyphs(pixels: NDArray[np.float32], ink: NDArray[np.bool_]) -> list[_Glyph]:
    sideways = pixels - cv2.erode(pixels, np.ones((1, 5), np.uint8)) >= _INK_STEP
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    edged = np.bincount(labels[sideways & ink], minlength=len(boxes))
    glyphs = []
    for box, edge in zip(boxes[1:].tolist(), edged[1:].tolist(), strict=True):
        glyph = _Glyph(*box)
        if (
            _GLYPH_HEIGHT[0] <= glyph.height <= _GLYPH_HEIGHT[1]
            and glyph.width <= 1.6 * glyph.height
            and edge >= 0.5 * glyph.area
        ):
            glyphs.append(glyph)
    return glyphs


def _line_from(glyphs: Sequence[_Glyph]) -> list[_Glyph]:
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
