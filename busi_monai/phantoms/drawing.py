"""Synthetic breast ultrasound: one image of a class, with its exact lesion mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import CLASSES, NORMAL, class_index
from busi_monai.errors import InputError
from busi_monai.phantoms.lesions import add_benign, add_malignant
from busi_monai.phantoms.speckle import random_scanner, scan
from busi_monai.phantoms.tissue import add_fat_lobule, grow_breast

__all__ = ["SMALLEST_SIDE", "Phantom", "draw_phantom", "random_size"]

SMALLEST_SIDE = 32
_FULL_GRID_BELOW = 200
_ADD_LESION = {"benign": add_benign, "malignant": add_malignant}


@dataclass(frozen=True)
class Phantom:
    """One synthetic image.

    Attributes:
        pixels: (H, W) uint8.
        lesion: (H, W) bool, all ``False`` for a normal.
        class_name: one of ``CLASSES``.
    """

    pixels: NDArray[np.uint8]
    lesion: NDArray[np.bool_]
    class_name: str


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw an (H, W) like those of BUSI: 360–560 rows, 1 to 1.4 times as wide."""
    height = int(rng.integers(360, 561))
    return height, int(height * rng.uniform(1.0, 1.4))


def draw_phantom(
    class_name: str, rng: np.random.Generator, size: tuple[int, int] | None = None
) -> Phantom:
    """Draw a phantom; the same generator state gives the same pixels.

    Args:
        class_name: one of ``CLASSES``.
        rng: the only source of randomness.
        size: (H, W) in px, by default drawn with ``random_size``.

    Raises:
        InputError: for an unknown class, or a side shorter than ``SMALLEST_SIDE``.

    Examples:
        >>> phantom = draw_phantom("benign", np.random.default_rng(0), (64, 96))
        >>> phantom.pixels.shape, bool(phantom.lesion.any())
        ((64, 96), True)
    """
    class_name = CLASSES[class_index(class_name)]
    size = random_size(rng) if size is None else size
    if min(size) < SMALLEST_SIDE:
        raise InputError(
            f"phantoms need sides of at least {SMALLEST_SIDE} px, got {size[0]}x{size[1]}"
        )
    # tissue varies over more than the speckle's size: half the resolution is enough for it
    step = 2 if min(size) >= _FULL_GRID_BELOW else 1
    breast = grow_breast(rng, (-(-size[0] // step), -(-size[1] // step)))
    for _ in range(rng.integers(1, 4) if class_name == NORMAL else rng.integers(0, 2)):
        add_fat_lobule(rng, breast)
    lesion = np.zeros(size, dtype=bool)
    if class_name != NORMAL:
        distance = _ADD_LESION[class_name](rng, breast)
        lesion = cv2.resize(distance, size[::-1], interpolation=cv2.INTER_LINEAR) <= 0
    pixels = scan(rng, breast.echo_db, breast.loss_db, random_scanner(rng, size), size)
    return Phantom(pixels, lesion, class_name)
