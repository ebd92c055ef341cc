"""The physics of a phantom: from maps of echo strength and attenuation to a B-mode image.

Fully developed speckle: a field of complex Gaussian scatterers, weighted by the tissue's echo
strength, is convolved with an anisotropic point spread function; its envelope is Rayleigh
distributed (Wagner et al., "Statistics of speckle in ultrasound B-scans", IEEE Trans. Sonics
Ultrason. 30 (1983) 156) and is shown log-compressed over a dynamic range.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Scanner", "random_scanner", "scan", "smooth_field"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """Settings of the simulated scanner.

    Attributes:
        axial_px: standard deviation of the point spread function along depth, in px.
        lateral_px: the same across, at the focus.
        focus: depth of the focus as a fraction of the image's height.
        looks: how many views from different angles are compounded; more make smoother speckle.
        dynamic_range_db: echo strengths over this range fill black to white.
        gain_db: added to all echoes.
        noise_db: level of the electronic noise, which the gain over depth lifts at the bottom.
    """

    axial_px: float
    lateral_px: float
    focus: float
    looks: int
    dynamic_range_db: float
    gain_db: float
    noise_db: float


def random_scanner(rng: np.random.Generator, size: tuple[int, int]) -> Scanner:
    """Draw a scanner whose speckle fits an image of (H, W) px."""
    scale = float(np.sqrt(size[0] * size[1])) / 450
    return Scanner(
        axial_px=max(0.5, rng.uniform(0.8, 1.15) * scale),
        lateral_px=max(0.65, rng.uniform(1.3, 2.0) * scale),
        focus=rng.uniform(0.3, 0.55),
        looks=int(rng.integers(2, 5)),
        dynamic_range_db=rng.uniform(46, 57),
        gain_db=rng.uniform(-2, 4),
        noise_db=rng.uniform(-48, -42),
    )


def smooth_field(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, float]
) -> Floats:
    """Return smooth noise, (H, W) of mean about 0 and deviation about 1.

    ``cells`` says how many independent values stand along each axis.
    """
    rows, columns = (max(2, round(count)) + 3 for count in cells)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    field = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field * np.float32(1.25), dtype=np.float32)


def scan(
    rng: np.random.Generator,
    echo_db: Floats,
    loss_db: Floats,
    scanner: Scanner,
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Return the B-mode image of a tissue.

    Args:
        rng: the source of scatterers and noise.
        echo_db: (h, w) echo strength in dB, 0 for bright gland, on a grid of any size.
        loss_db: (h, w) attenuation per row in dB beyond what the scanner's gain over depth makes
            good; summed up along depth it gives shadows and, where negative, enhancement.
        scanner: the settings.
        size: (H, W) of the image in px.
    """
    through_db = _spread_with_depth(np.cumsum(loss_db, axis=0, dtype=np.float32))
    level_db = cv2.resize(echo_db - through_db, size[::-1], interpolation=cv2.INTER_LINEAR)
    amplitude = np.exp(level_db * np.float32(np.log(10) / 20))
    power = np.zeros(size, dtype=np.float32)
    for _ in range(2 * scanner.looks):  # in phase and in quadrature, for each look
        field = rng.standard_normal(size, dtype=np.float32)
        field *= amplitude
        power += _point_spread(field, scanner) ** 2
    power = _defocus(power / np.float32(2 * scanner.looks), scanner)
    return _shown(rng, power, scanner)


def _spread_with_depth(through_db: Floats) -> Floats:
    """Widen shadows and enhancement downwards, as the beam does."""
    height, width = through_db.shape
    near = cv2.GaussianBlur(through_db, (0, 0), sigmaX=0.006 * width + 0.3)
    far = cv2.GaussianBlur(through_db, (0, 0), sigmaX=0.03 * width + 0.3)
    depth = np.linspace(-0.3, 1, height, dtype=np.float32)[:, None]
    return np.asarray(near + np.clip(depth, 0, 1) * (far - near), dtype=np.float32)


def _point_spread(field: Floats, scanner: Scanner) -> Floats:
    """Convolve with a Gaussian point spread function of unit energy."""
    kernels = []
    for sigma in (scanner.lateral_px, scanner.axial_px):
        reach = int(np.ceil(2.5 * sigma))
        offsets = np.arange(-reach, reach + 1, dtype=np.float64)
        kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
        kernels.append((kernel / np.sqrt((kernel**2).sum())).astype(np.float32))
    blurred = cv2.sepFilter2D(field, cv2.CV_32F, kernels[0], kernels[1])
    return np.asarray(blurred, dtype=np.float32)


def _defocus(power: Floats, scanner: Scanner) -> Floats:
    """Widen the speckle across, the more the farther from the focus."""
    depth = np.linspace(0, 1, len(power), dtype=np.float32)[:, None]
    blend = np.clip(np.abs(depth - np.float32(scanner.focus)) / np.float32(0.7), 0, 0.8)
    wide = cv2.GaussianBlur(power, (0, 0), sigmaX=1.8 * scanner.lateral_px, sigmaY=0.35)
    return np.asarray(power + blend * (wide - power), dtype=np.float32)


def _shown(rng: np.random.Generator, power: Floats, scanner: Scanner) -> NDArray[np.uint8]:
    """Add the electronic noise, compress and map to grey, with the curve that scanners use."""
    depth = np.linspace(0, 1, len(power), dtype=np.float32)[:, None]
    noise_power = np.exp((scanner.noise_db + 10 * depth**2) * np.log(10) / 10).astype(np.float32)
    power = power + noise_power * rng.standard_normal(power.shape, dtype=np.float32) ** 2
    level_db = 10 * np.log10(power + np.float32(1e-9)) + np.float32(scanner.gain_db)
    part = np.clip(level_db / np.float32(scanner.dynamic_range_db) + np.float32(0.8), 0, 1)
    return np.round(part ** np.float32(1.35) * 255).astype(np.uint8)
