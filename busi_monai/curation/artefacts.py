"""Graphics that a scanner burned into the pixels (text, calipers, colour), and odd grey levels.

``imaging.ink`` finds the graphics. On BUSI nearly every flag is right; faint, tiny or overlapping
graphics and diagonal crosses are missed, the more of them the lower the resolution. The flags
inform; nothing is removed for them.
"""

from __future__ import annotations

import numpy as np

from busi_monai.imaging.ink import count_crosses, ink_mask, text_lines
from busi_monai.io.grey_ranges import GREY_DEPTH, GREY_UNKNOWN
from busi_monai.io.images import LoadedImage

__all__ = ["ARTEFACT_KINDS", "find_artefacts"]

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
