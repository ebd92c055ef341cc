from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from busi_monai.curation.audit import find_artefacts
from busi_monai.imaging.ink import count_crosses, ink_mask
from busi_monai.io.images import LoadedImage


def tissue(seed: int = 0) -> NDArray[np.uint8]:
    """Smooth speckle with bright layers, as bright as graphics but with soft edges."""
    noise = np.random.default_rng(seed).standard_normal((300, 400)).astype(np.float32)
    speckle = cv2.GaussianBlur(noise, (0, 0), sigmaX=5, sigmaY=2.5)
    grey = 90 + 35 * speckle / speckle.std()
    for row in (60, 140, 220):
        grey += 110 * np.exp(-((np.arange(300) - row) ** 2) / 18)[:, None]
    return np.clip(grey, 0, 255).astype(np.uint8)


def flags(grey: NDArray[np.uint8], *, colour: bool = False) -> list[str]:
    return find_artefacts(LoadedImage(grey.astype(np.float32) / 255, has_colour=colour))


def plus(grey: NDArray[np.uint8], x: int, y: int, *, arm: int = 7, value: int = 232) -> None:
    cv2.rectangle(grey, (x - arm, y - 1), (x + arm, y + 1), value, -1)
    cv2.rectangle(grey, (x - 1, y - arm), (x + 1, y + arm), value, -1)


@pytest.mark.parametrize("seed", range(5))
def test_tissue_alone_has_no_artefact(seed):
    assert flags(tissue(seed)) == []


@pytest.mark.parametrize("text", ["RT AXILLA", "LT3", "12MHZ 4CM"])
def test_burned_in_text_is_text_and_no_marker(text):
    grey = tissue()
    left = 20
    for letter in text:
        # one by one: OpenCV 4 kerns down to letters that overlap, other than OpenCV 5
        cv2.putText(grey, letter, (left, 270), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 232, 2)
        left += cv2.getTextSize(letter, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 2)[0][0] + 2
    assert flags(grey) == ["text"]


@pytest.mark.parametrize("arm", [5, 7, 12])
def test_caliper_crosses_are_markers(arm):
    grey = tissue()
    plus(grey, 150, 180, arm=arm)
    plus(grey, 250, 100, arm=arm)
    assert flags(grey) == ["markers"]
    assert count_crosses(ink_mask(grey.astype(np.float32) / 255)) == 2


def test_line_and_corner_are_no_cross():
    grey = tissue()
    cv2.rectangle(grey, (100, 80), (260, 200), 232, 2)
    cv2.line(grey, (40, 250), (200, 250), 232, 2)
    assert flags(grey) == []


def test_cross_at_the_edge_is_no_error():
    grey = tissue()
    for x, y in ((0, 0), (399, 299), (3, 150)):
        plus(grey, x, y)
    assert set(flags(grey)) <= {"markers"}
