"""One image as a tile: scaled into a box, its lesion outlined, framed by its class, captioned."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from busi_monai.plots.palette import CLASS_COLOURS, INK, TRUE_OUTLINE

__all__ = [
    "CAPTION",
    "PAPER",
    "Sample",
    "caption_font",
    "outlined",
    "sample_tile",
]

CAPTION = 18
"""Height of a line of text, in pixels."""
PAPER = (255, 255, 255)

_FRAME = 3


@dataclass(frozen=True)
class Sample:
    """One image to be shown.

    Attributes:
        id: caption.
        class_name: one of ``CLASSES``.
        pixels: (H, W) uint8.
        mask: (H, W) bool of the same size, or ``None``.
    """

    id: str
    class_name: str
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None = None


def outlined(sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
    """Return an image scaled into a box, with its lesion outlined, as (H, W, 3) uint8 RGB.

    Args:
        sample: the image; without a mask nothing is drawn on it.
        width: of the box, in pixels.
        height: of the box, in pixels.

    Examples:
        >>> mask = np.zeros((60, 90), dtype=bool)
        >>> mask[20:40, 30:60] = True
        >>> pixels = np.zeros((60, 90), dtype=np.uint8)
        >>> outlined(Sample("benign (1)", "benign", pixels, mask), 180, 180).shape
        (120, 180, 3)
    """
    factor = min(width / sample.pixels.shape[1], height / sample.pixels.shape[0])
    size = (
        max(8, round(sample.pixels.shape[1] * factor)),
        max(8, round(sample.pixels.shape[0] * factor)),
    )
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    grey = cv2.resize(sample.pixels, size, interpolation=method)
    colours = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    if sample.mask is not None and sample.mask.any():
        mask = cv2.resize(sample.mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        contours, _ = cv2.findContours(
            (mask >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(colours, contours, -1, TRUE_OUTLINE, 1, cv2.LINE_AA)
    return np.asarray(colours, dtype=np.uint8)


def sample_tile(sample: Sample, width: int, height: int) -> Image.Image:
    """Return an image within a box, outlined, framed by its class, with its id below."""
    colours = outlined(sample, width, height)
    size = (colours.shape[1], colours.shape[0])
    frame = Image.new("RGB", (size[0] + 2 * _FRAME, height + 2 * _FRAME + CAPTION), PAPER)
    draw = ImageDraw.Draw(frame)
    draw.rectangle(
        (0, 0, size[0] + 2 * _FRAME - 1, size[1] + 2 * _FRAME - 1),
        fill=CLASS_COLOURS[sample.class_name],
    )
    frame.paste(Image.fromarray(colours), (_FRAME, _FRAME))
    draw.text((2, size[1] + 2 * _FRAME), sample.id, INK, font=caption_font())
    return frame


@functools.cache
def caption_font() -> ImageFont.FreeTypeFont:
    """Return the font of every caption, which comes with matplotlib and knows most letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12)
