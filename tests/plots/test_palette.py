from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

import busi_monai
from busi_monai.cases import CLASSES
from busi_monai.plots import palette
from busi_monai.plots.palette import CLASS_COLOURS, FAINT, INK, MUTED

VISION = {  # on linear RGB, full severity: Machado, Oliveira and Fernandes, 2009
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB: lightness 0 to 100 first."""
    pixel = np.clip(rgb, 0, 1).astype(np.float32)[None, None]
    return cv2.cvtColor(pixel, cv2.COLOR_LRGB2Lab)[0, 0]


def test_every_class_has_a_colour() -> None:
    assert tuple(CLASS_COLOURS) == CLASSES


@pytest.mark.parametrize("vision", VISION)
def test_classes_are_told_apart_with_any_colour_vision(vision: str) -> None:
    seen = [lab(VISION[vision] @ linear(colour)) for colour in CLASS_COLOURS.values()]
    distances = [np.linalg.norm(one - other) for one, other in combinations(seen, 2)]
    assert min(distances) > (30 if vision == "tritanopia" else 45)


@pytest.mark.parametrize("colours", [CLASS_COLOURS.values(), (INK, MUTED, FAINT)])
def test_what_is_compared_is_told_apart_in_grey(colours: tuple[str, ...]) -> None:
    lightness = [lab(linear(colour))[0] for colour in colours]
    assert min(abs(one - other) for one, other in combinations(lightness, 2)) > 14


def test_classes_stand_out_from_paper() -> None:
    luminance = [linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in CLASS_COLOURS.values()]
    assert min(1.05 / (value + 0.05) for value in luminance) >= 3


def test_the_package_has_no_other_colours() -> None:
    """Greys apart; the style of the page, which shows no class in a colour, has its own."""
    package = Path(busi_monai.__file__).parent
    others = {
        (path.name, found)
        for path in [*package.rglob("*.py"), *package.rglob("*.js")]
        if path != Path(palette.__file__)
        for found in re.findall(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b", path.read_text("utf-8"))
        if len(set(re.findall("." if len(found) == 4 else "..", found[1:]))) > 1
    }
    assert others == set()
    style = (package / "serving" / "page" / "style.css").read_text("utf-8").lower()
    assert not [colour for colour in CLASS_COLOURS.values() if colour.lower() in style]
