"""The colours of everything that is drawn, each with one meaning.

Classes are told apart with usual, red-blind, green-blind and blue-blind vision and in grey print,
and stand out from white paper by 3:1 at least (WCAG 2.2, 1.4.11); ``tests/plots/test_palette.py``
measures it. What is no class never has a class's colour.
"""

from __future__ import annotations

from busi_monai.cases import CLASSES

__all__ = ["ACCENT", "CLASS_COLOURS", "FAINT", "INK", "MUTED", "PREDICTED_OUTLINE", "TRUE_OUTLINE"]

CLASS_COLOURS = dict(zip(CLASSES, ("#33A095", "#004488", "#BB4400"), strict=True))
"""Colour of each class in every figure: teal, dark blue, vermilion."""

INK = "#1E1E1E"
"""Text, and what a figure is about: the reference, the best trial."""

MUTED = "#6F6F6F"
"""What it is compared with."""

FAINT = "#AAAAAA"
"""What counts less: trials that were ended early."""

ACCENT = "#1257A8"
"""Buttons and bars of the page on white paper (7:1); its style has one for dark paper."""

PREDICTED_OUTLINE = (255, 196, 0)
"""RGB of predicted outlines, on images."""

TRUE_OUTLINE = (0, 200, 255)
"""RGB of true outlines, on images; the two differ for the colour-blind as well."""
