"""The lesions of a phantom, after the descriptors of BI-RADS ultrasound.

Benign: oval, smooth, wider than tall, dark and even, enhancement behind. Malignant: irregular,
taller than wide, angular and spiculated, uneven, bright halo, shadow behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.phantoms.speckle import Floats, smooth_field
from busi_monai.phantoms.tissue import Breast

__all__ = ["Outline", "add_benign", "add_malignant"]


@dataclass(frozen=True)
class Outline:
    """A star-shaped outline around a centre.

    ``radii`` are (n,) px from the centre, over angles from 0 to 2π (0 to the right, then down).
    """

    row: float
    column: float
    radii: NDArray[np.float64]

    def signed_distance(self, size: tuple[int, int]) -> Floats:
        """Return (h, w) px from the outline, negative inside."""
        angles = np.linspace(0, 2 * np.pi, len(self.radii), endpoint=False)
        points = np.stack(
            [self.column + self.radii * np.cos(angles), self.row + self.radii * np.sin(angles)], 1
        )
        filled = np.zeros(size, dtype=np.uint8)
        cv2.fillPoly(filled, [np.round(points * 16).astype(np.int32)], 1, shift=4)
        outside = cv2.distanceTransform(1 - filled, cv2.DIST_L2, 5)
        inside = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
        return np.asarray(outside - inside, dtype=np.float32)


def add_benign(rng: np.random.Generator, breast: Breast) -> Floats:
    """Put a benign lesion into the breast and return its (h, w) signed distance in grid px."""
    size = breast.echo_db.shape
    height = size[0]
    semi_y = rng.uniform(0.055, 0.15) * height
    semi_x = min(semi_y * rng.uniform(1.35, 2.2), 0.3 * size[1])
    lobes = rng.uniform(0.2, 1.2)
    outline = _random_outline(
        rng, breast, (semi_y, semi_x), ((2, 0.03), (3, 0.045 * lobes), (4, 0.025 * lobes))
    )
    distance = outline.signed_distance(size)
    inside = _soft(distance, rng.uniform(0.002, 0.005) * height)
    cyst = rng.random() < 0.25
    contrast_db = rng.uniform(-46, -38) if cyst else rng.uniform(-31, -24)
    texture = rng.uniform(0.3, 1.2) * smooth_field(rng, size, (20, 20))
    breast.echo_db += inside * (np.float32(contrast_db) + texture - breast.echo_db)
    _add_capsule(rng, breast, distance, rng.uniform(2, 7))
    gain_db = rng.uniform(8, 13) if cyst else rng.uniform(2, 8)
    breast.loss_db -= (inside * gain_db / (2 * semi_y)).astype(np.float32)
    _edge_shadows(breast, outline, (semi_y, semi_x), rng.uniform(2, 6))
    return distance


def add_malignant(rng: np.random.Generator, breast: Breast) -> Floats:
    """Put a malignant lesion into the breast and return its (h, w) signed distance in grid px."""
    size = breast.echo_db.shape
    height = size[0]
    semi_y = rng.uniform(0.08, 0.17) * height
    semi_x = min(semi_y / rng.uniform(1.0, 1.5), 0.3 * size[1])
    base = _random_outline(
        rng, breast, (semi_y, semi_x), tuple((n, 0.16 / n**0.7) for n in range(2, 14))
    )
    distance = base.signed_distance(size) + 0.006 * height * smooth_field(rng, size, (30, 30))
    reach = _with_spicules(rng, base).signed_distance(size)
    ragged = np.clip(1 + 0.6 * smooth_field(rng, size, (8, 8)), 0.3, 2.5)
    inside = _soft(distance / ragged, 0.007 * height)
    contrast_db = rng.uniform(-30, -24)
    uneven = rng.uniform(2.5, 5) * smooth_field(rng, size, (13, 13))
    halo = np.exp(-((np.maximum(distance, 0) / (0.04 * height)) ** 2)) * (1 - inside)
    breast.echo_db += (halo * rng.uniform(2, 6)).astype(np.float32)
    spicules = _soft(reach, 0.004 * height) * (1 - inside)
    breast.echo_db += spicules * 0.7 * (np.float32(contrast_db) + 4 - breast.echo_db)
    breast.echo_db += inside * (np.float32(contrast_db) + uneven - breast.echo_db)
    if rng.random() < 0.4:
        _add_microcalcifications(rng, breast, distance)
    breast.loss_db += (inside * rng.uniform(10, 24) / (2 * semi_y)).astype(np.float32)
    return np.asarray(np.minimum(distance, reach + 0.012 * height), dtype=np.float32)


def _random_outline(
    rng: np.random.Generator,
    breast: Breast,
    semi_axes: tuple[float, float],
    waves: tuple[tuple[int, float], ...],
) -> Outline:
    """Place a tilted ellipse in the gland and ruffle it by waves of (order, strength)."""
    semi_y, semi_x = semi_axes
    width = breast.echo_db.shape[1]
    column = _between(rng, 1.05 * semi_x, width - 1.05 * semi_x)
    row = _between(rng, 0.85 * breast.gland_top + semi_y, 1.02 * breast.muscle_top - semi_y)
    tilt = rng.normal(0, 0.12)
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    radii = 1 / np.hypot(np.cos(angles - tilt) / semi_x, np.sin(angles - tilt) / semi_y)
    factor = np.ones_like(angles)
    for order, strength in waves:
        factor += rng.normal(0, strength) * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    return Outline(row, column, radii * np.clip(factor, 0.5, 1.6))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return rng.uniform(low, high) if low < high else (low + high) / 2


def _with_spicules(rng: np.random.Generator, base: Outline) -> Outline:
    """Thin, pointed extensions at random angles."""
    angles = np.linspace(0, 2 * np.pi, len(base.radii), endpoint=False)
    factor = np.ones_like(angles)
    for _ in range(rng.integers(4, 11)):
        gap = np.abs((angles - rng.uniform(0, 2 * np.pi) + np.pi) % (2 * np.pi) - np.pi)
        factor += rng.uniform(0.1, 0.6) * np.clip(1 - gap / rng.uniform(0.07, 0.2), 0, 1)
    return Outline(base.row, base.column, base.radii * factor)


def _add_capsule(
    rng: np.random.Generator, breast: Breast, distance: Floats, strength_db: float
) -> None:
    """A thin bright rim, brightest where the beam meets it head on: above and below."""
    height = len(distance)
    rim = np.exp(-(((distance - 0.004 * height) / max(0.8, 0.006 * height)) ** 2))
    level = np.abs(cv2.Sobel(distance, cv2.CV_32F, 0, 1, ksize=3)) / 8
    broken = np.clip(0.6 + 0.4 * smooth_field(rng, distance.shape, (8, 8)), 0, 1)
    breast.echo_db += (rim * broken * strength_db * (0.3 + level)).astype(np.float32)


def _add_microcalcifications(rng: np.random.Generator, breast: Breast, distance: Floats) -> None:
    rows, columns = np.nonzero(distance < -0.02 * len(distance))
    if len(rows) == 0:
        return
    dots = np.zeros(distance.shape, dtype=np.float32)
    chosen = rng.integers(0, len(rows), rng.integers(4, 12))
    dots[rows[chosen], columns[chosen]] = 1
    sigma = max(0.6, 0.003 * len(distance))
    dots = cv2.GaussianBlur(dots, (0, 0), sigma) * np.float32(2 * np.pi * sigma**2)
    breast.echo_db += np.clip(dots, 0, 1) * 26


def _edge_shadows(
    breast: Breast, outline: Outline, semi_axes: tuple[float, float], strength_db: float
) -> None:
    """Thin shadows behind the sides of a smooth, curved wall, where the beam is bent away."""
    semi_y, semi_x = semi_axes
    height, width = breast.echo_db.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :]
    beside = np.exp(-(((np.abs(columns - outline.column) - semi_x) / (0.08 * semi_x + 1)) ** 2))
    here = np.exp(-(((rows - outline.row) / (0.5 * semi_y)) ** 2))
    breast.loss_db += (beside * here * strength_db / semi_y).astype(np.float32)


def _soft(distance: Floats, width_px: float) -> Floats:
    """Return 1 inside to 0 outside over a margin of a width."""
    width_px = max(0.4, width_px)
    return np.asarray(1 / (1 + np.exp(np.clip(distance / width_px, -30, 30))), dtype=np.float32)
