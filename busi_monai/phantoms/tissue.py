"""The breast of a phantom: skin, subcutaneous fat with septa, gland, pectoral muscle.

Echo strengths are in dB with 0 for a strong reflector; lengths are fractions of the height. The
layers are laid out flat and then bent together, so that fibres, septa and fasciae run alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from busi_monai.phantoms.speckle import Floats, smooth_field

__all__ = ["FAT_DB", "Breast", "add_fat_lobule", "grow_breast"]

FAT_DB = -21.0
GLAND_DB = -13.0
MUSCLE_DB = -23.0
SKIN_DB = -11.0


@dataclass
class Breast:
    """Tissue maps, and where the layers begin.

    Attributes:
        echo_db: (h, w) echo strength in dB.
        loss_db: (h, w) attenuation in dB per row beyond the gain over depth.
        gland_top: mean row at which the gland begins.
        muscle_top: mean row at which the muscle begins.
    """

    echo_db: Floats
    loss_db: Floats
    gland_top: float
    muscle_top: float


def grow_breast(rng: np.random.Generator, size: tuple[int, int]) -> Breast:
    """Draw a breast without lesion on a grid of (h, w)."""
    height = size[0]
    rows = np.arange(height, dtype=np.float32)[:, None]
    fat_top = height * rng.uniform(0.035, 0.055)
    gland_top = height * rng.uniform(0.16, 0.34)
    muscle_top = height * rng.uniform(0.68, 0.86)
    echo = _fat(rng, size)
    echo += _below(rows, gland_top, height) * (_gland(rng, size) - echo)
    echo += _below(rows, muscle_top, height) * (_muscle(rng, size, rows - muscle_top) - echo)
    _draw_fascia(rng, echo, gland_top, rng.uniform(-8, -2), 0.005)
    _draw_fascia(rng, echo, muscle_top, rng.uniform(-6, 0), 0.008)
    echo = _bend(rng, echo)
    skin = _skin(rng, size, rows / np.float32(fat_top))
    echo += (1 - _below(rows, fat_top, height)) * (skin - echo)
    return Breast(echo, _attenuation(rng, size), gland_top, muscle_top)


def add_fat_lobule(rng: np.random.Generator, breast: Breast) -> None:
    """Put an isolated fat lobule into the gland: what is taken for a lesion by mistake.

    It is as bright as the subcutaneous fat, has a thin bright capsule that is broken in places,
    streaks inside, and neither shadow nor enhancement.
    """
    size = height, width = breast.echo_db.shape
    column = rng.uniform(0.1, 0.9) * width
    semi_y = rng.uniform(0.03, 0.06) * height
    semi_x = semi_y * rng.uniform(2.0, 3.6)
    row = rng.uniform(breast.gland_top + semi_y, breast.muscle_top - semi_y)
    tilt = rng.uniform(-0.3, 0.3)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    along = (columns - column) * np.cos(tilt) + (rows - row) * np.sin(tilt)
    across = (rows - row) * np.cos(tilt) - (columns - column) * np.sin(tilt)
    radius = np.hypot(along / semi_x, across / semi_y)
    radius = radius + 0.15 * smooth_field(rng, size, (9, 9))
    inside = 1 / (1 + np.exp(np.clip((radius - 1) * 9, -30, 30)))
    fat = FAT_DB + 1.5 + 4 * _fibres(rng, size, (40, 6), 0.3)
    breast.echo_db += (inside * 0.8 * (fat - breast.echo_db)).astype(np.float32)
    capsule = np.exp(-(((radius - 1.05) / 0.1) ** 2))
    broken = np.clip(0.2 + 0.6 * smooth_field(rng, size, (6, 6)), 0, 1)
    breast.echo_db += (capsule * broken * 8).astype(np.float32)


def _below(rows: Floats, top: float, height: int) -> Floats:
    edge = np.float32(max(0.6, 0.006 * height))
    return np.asarray(1 / (1 + np.exp(np.clip((top - rows) / edge, -30, 30))), dtype=np.float32)


def _fibres(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, float], thin: float
) -> Floats:
    """Bright lines, 0 to 1, where smooth noise crosses zero: they join and part like fibres."""
    crossing = smooth_field(rng, size, cells) / np.float32(thin)
    present = np.clip(0.5 + 0.55 * smooth_field(rng, size, (cells[0] / 4 + 2, 5)), 0, 1)
    return np.asarray(np.exp(-(crossing**2)) * present, dtype=np.float32)


def _bend(rng: np.random.Generator, flat: Floats) -> Floats:
    """Bend the flat layers: a large swing, waves, and a fine ruffle."""
    height, width = size = flat.shape
    slope = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(rng.normal(0, 0.05))
    shift = (
        slope
        + 0.035 * smooth_field(rng, size, (1.5, 1.5))
        + 0.006 * smooth_field(rng, size, (5, 6))
    )
    shift += 0.002 * smooth_field(rng, size, (24, 22))
    along = 0.008 * smooth_field(rng, size, (5, 5))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    anchored = np.clip(rows / (0.12 * height), 0, 1)
    bent = cv2.remap(
        flat,
        (columns + along * height).astype(np.float32),
        (rows + shift * height * anchored).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(bent, dtype=np.float32)


def _skin(rng: np.random.Generator, size: tuple[int, int], place: Floats) -> Floats:
    """A bright entry echo, a medium dermis and a bright line under it; place is 1 at its end."""
    entry = 9 * np.exp(-((place / 0.2) ** 2))
    lower = 7 * np.exp(-(((place - 0.95) / 0.16) ** 2))
    return np.asarray(SKIN_DB + entry + lower + smooth_field(rng, size, (40, 12)), np.float32)


def _fat(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Dark lobules between bright septa, the ligaments of Cooper."""
    aspect = size[1] / size[0]
    septa = _fibres(rng, size, (rng.uniform(16, 26), rng.uniform(2, 3.5) * aspect), 0.16)
    fine = _fibres(rng, size, (rng.uniform(45, 70), rng.uniform(4, 7) * aspect), 0.25)
    level = FAT_DB + 1.3 * smooth_field(rng, size, (14, 14))
    return np.asarray(level + rng.uniform(11, 17) * septa + rng.uniform(3, 7) * fine, np.float32)


def _gland(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Bright fibrous tissue with flat, dark islands of ducts, lobules and fat."""
    aspect = size[1] / size[0]
    fibres = _fibres(rng, size, (rng.uniform(45, 70), rng.uniform(3, 5) * aspect), 0.35)
    bands = _fibres(rng, size, (rng.uniform(20, 32), rng.uniform(1.5, 3) * aspect), 0.22)
    clouds = smooth_field(rng, size, (rng.uniform(5, 9), rng.uniform(3, 6)))
    grain = smooth_field(rng, size, (rng.uniform(26, 40), rng.uniform(9, 14) * aspect))
    islands = np.clip((grain - rng.uniform(0.5, 1.2)) * 1.6, 0, 1)
    level = GLAND_DB + rng.uniform(-4, 0) + 2.2 * clouds
    level = level + rng.uniform(7, 11) * fibres + rng.uniform(6, 11) * bands
    return np.asarray(level - rng.uniform(3, 9) * islands, dtype=np.float32)


def _muscle(rng: np.random.Generator, size: tuple[int, int], depth: Floats) -> Floats:
    """Dark muscle with bright striations along its fascia, fading into the depth."""
    height = size[0]
    period = rng.uniform(0.024, 0.036) * height
    warp = 0.25 * period * smooth_field(rng, size, (12, 5))
    stripes = np.clip(np.cos(2 * np.pi * (depth + warp) / period), 0, 1) ** 3
    present = np.clip(0.3 + 0.7 * smooth_field(rng, size, (24, 5)), 0, 1.2)
    fading = np.clip(depth / (0.25 * height), 0, 1)
    return np.asarray(MUSCLE_DB + 11 * stripes * present - 5 * fading, dtype=np.float32)


def _draw_fascia(
    rng: np.random.Generator, echo: Floats, row: float, level_db: float, thickness: float
) -> None:
    height, width = echo.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    line = np.exp(-(((rows - row) / max(0.8, thickness * height)) ** 2))
    present = np.clip(0.6 + 0.45 * smooth_field(rng, (2, width), (1, 7))[:1], 0, 1)
    echo += (line * present * np.maximum(level_db - echo, 0)).astype(np.float32)


def _attenuation(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """What the gain over depth leaves: darker with depth, and columns shaded by ligaments."""
    height, width = size
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    fall = rng.uniform(4, 14) * 2 * depth / height
    across = smooth_field(rng, (2, width), (1, rng.uniform(6, 16)))[:1]
    shaded = np.clip(across - 0.6, 0, 1.5) * rng.uniform(2, 7) / height
    return np.asarray(fall + shaded, dtype=np.float32)
