"""Overlays: the lesion's outline over the image, with the class and its probability."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from busi_monai.plots.palette import PREDICTED_OUTLINE, TRUE_OUTLINE

__all__ = ["draw_outlines", "draw_overlay"]

NOTICE = "research use only"

Colour = tuple[int, int, int]


def draw_overlay(
    pixels: NDArray[np.floating],
    mask: NDArray[np.generic],
    *,
    predicted_class: str | None = None,
    confidence: float | None = None,
    true_mask: NDArray[np.generic] | None = None,
    true_class: str | None = None,
) -> NDArray[np.uint8]:
    """Return an image with predicted and true outlines, and a caption below it.

    Args:
        pixels: (H, W) grey in [0, 1].
        mask: (H, W) predicted mask, non-zero on the lesion.
        predicted_class: for the caption.
        confidence: probability of that class, likewise.
        true_mask: (H, W), drawn below the predicted outline.
        true_class: for the caption.

    Returns:
        (H + caption, W, 3) uint8 RGB; the image itself is neither scaled nor written on.

    Raises:
        ValueError: if a mask's size is not the image's.
    """
    outlines = [(true_mask, TRUE_OUTLINE)] if true_mask is not None else []
    canvas = draw_outlines(pixels, [*outlines, (mask, PREDICTED_OUTLINE)])
    words = [predicted_class or "lesion mask"]
    if confidence is not None:
        words.append(f"{100 * confidence:.0f} %")
    truth = "" if true_class is None else f"true: {true_class}"
    return np.concatenate([canvas, _caption(canvas.shape[1], " ".join(words), truth)])


def draw_outlines(
    pixels: NDArray[np.floating], outlines: list[tuple[NDArray[np.generic], Colour]]
) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 RGB: (H, W) ``pixels`` in [0, 1] with masks' outlines.

    Args:
        pixels: the image.
        outlines: (mask, RGB colour) pairs, later ones on top.
    """
    grey = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    canvas = np.ascontiguousarray(np.stack([grey] * 3, axis=-1))
    thickness = max(1, round(min(grey.shape) / 250))
    for mask, colour in outlines:
        if mask.shape != grey.shape:
            raise ValueError(
                f"mask of {mask.shape} over an image of {grey.shape}; expected the same size"
            )
        binary = np.ascontiguousarray(np.asarray(mask) > 0).astype(np.uint8)
        contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour, thickness)
    return canvas


def _caption(width: int, text: str, truth: str) -> NDArray[np.uint8]:
    """Return (h, width, 3) uint8: as many lines as the width needs, the notice last and small."""
    large, small = max(11, min(36, width // 22)), max(9, min(20, width // 34))
    lines = [(text, large, PREDICTED_OUTLINE), (NOTICE, small, (170, 170, 170))]
    if truth:
        lines.insert(1, (truth, large, TRUE_OUTLINE))
    heights = [round(size * 1.35) for _, size, _ in lines]
    image = Image.new("RGB", (width, sum(heights) + 4))
    draw = ImageDraw.Draw(image)
    top = 2
    for (line, size, colour), height in zip(lines, heights, strict=True):
        draw.text((4, top), line, fill=colour, font=ImageFont.load_default(size))
        top += height
    return np.asarray(image)
