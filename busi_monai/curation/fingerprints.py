"""What is kept of an image to recognise it again: hashes and a small thumbnail.

A published copy of an ultrasound image may be rescaled, cropped, annotated or of another
brightness. A perceptual hash survives the rescaling, not the crop; the correlation of two
images' fine texture at the shift that fits best survives both a crop and annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import imagehash
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

from busi_monai.io.images import pixel_sha256

__all__ = [
    "GRID",
    "SQUARE",
    "Fingerprint",
    "common_scale",
    "fine_texture",
    "fingerprint",
    "hash_distances",
    "shifted_correlations",
    "spectrum",
]

THUMBNAIL_SIDE = 160

# The texture is compared at about the size at which speckle has averaged out and tissue layers,
# lesion borders and calipers remain: the median image's longer side becomes 60 px.
COMPARED_SIDE = 60
GRID = (64, 96)
SQUARE = (64, 64)

_FINE_SIGMA = 3.0  # px; what is coarser (depth gain, shadows) is alike in unrelated images
_CONTRAST_SIGMA = 5.0
_CONTRAST_FLOOR = 4 / 255  # keeps noise in black borders from being amplified
_SOFT_EDGE = 4  # px
_WORKERS = 2


@dataclass(frozen=True)
class Fingerprint:
    """What near-duplicate search keeps of one image: some 30 kB.

    Attributes:
        sha256: of the grey pixels with their shape (``pixel_sha256``).
        phash: (64,) bool, imagehash's perceptual hash of the grey image.
        thumbnail: (h, w) uint8, the longer side at most ``THUMBNAIL_SIDE``.
        shape: (H, W) of the image.
    """

    sha256: str
    phash: NDArray[np.bool_]
    thumbnail: NDArray[np.uint8]
    shape: tuple[int, int]


def fingerprint(pixels: NDArray[np.float32], sha256: str | None = None) -> Fingerprint:
    """Return the fingerprint of an image.

    Args:
        pixels: (H, W) in [0, 1].
        sha256: ``LoadedImage.sha256``; by default that of the pixels as they are.
    """
    grey = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    height, width = grey.shape
    factor = min(1.0, THUMBNAIL_SIDE / max(height, width))
    return Fingerprint(
        sha256=sha256 or pixel_sha256(pixels),
        phash=np.asarray(imagehash.phash(Image.fromarray(grey)).hash, dtype=bool).ravel(),
        thumbnail=_resize(grey, (max(2, round(height * factor)), max(2, round(width * factor)))),
        shape=(height, width),
    )


def hash_distances(hashes: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the Hamming distances (N, N) between perceptual hashes (N, bits).

    Examples:
        >>> hash_distances(np.array([[True, False], [True, True]])).tolist()
        [[0, 1], [1, 0]]
    """
    bits = hashes.astype(np.float32)
    apart = bits @ (1 - bits).T
    return np.rint(apart + apart.T).astype(np.int32)


def common_scale(prints: Sequence[Fingerprint]) -> float:
    """Return the factor that brings the median image's longer side to ``COMPARED_SIDE``."""
    return min(1.0, COMPARED_SIDE / float(np.median([max(p.shape) for p in prints])))


def spectrum(
    known: Fingerprint, *, scale: float | None = None
) -> tuple[NDArray[np.complex64], tuple[int, int]]:
    """Return the Fourier transform of an image's fine texture, of energy one, and its grid.

    Args:
        known: the image's fingerprint.
        scale: resize the image by this factor onto ``GRID``, so that crops of one image hold
            equal texture; ``None`` stretches the image to ``SQUARE`` instead, so that rescaled
            copies hold equal texture.
    """
    if scale is None:
        grid = size = SQUARE
    else:
        grid = GRID
        size = (max(8, round(known.shape[0] * scale)), max(8, round(known.shape[1] * scale)))
    texture = _centre(fine_texture(_resize(known.thumbnail, size)), grid)
    texture *= _soft_window(texture.shape)
    energy = float(np.linalg.norm(texture))
    if energy > 0:
        texture /= energy
    transform: NDArray[np.complex64] = scipy.fft.rfft2(texture, s=grid).astype(np.complex64)
    return transform, grid


def shifted_correlations(
    one: NDArray[np.complex64], others: NDArray[np.complex64], grid: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the correlation of one texture with each of several at the shift that fits best.

    Cross-correlation by Fourier transform (Brown, ACM Computing Surveys 24(4), 1992, section 3.1),
    with the contrast evened out beforehand instead of the spectrum. What one image holds and the
    other doesn't counts as uncorrelated, so the figure also says how much of them is shared.

    Args:
        one: spectrum (h, w').
        others: spectra (N, h, w') on the same grid.
        grid: (h, w) as ``spectrum`` returned it.

    Returns:
        (N,) float32, at most 1; unrelated ultrasound images lie at 0.1 to 0.3.
    """
    surfaces = scipy.fft.irfft2(
        one.conj()[None] * others, s=grid, overwrite_x=True, workers=_WORKERS
    )
    best: NDArray[np.float32] = surfaces.reshape(len(others), -1).max(axis=1)
    return best


def fine_texture(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Remove what is coarse and even out the local contrast.

    Args:
        pixels: (h, w) of 0 to 255.

    Returns:
        (h, w) float32 around 0, of deviation about 1 where there is texture.
    """
    values = pixels.astype(np.float32) / np.float32(255)
    values = values - cv2.GaussianBlur(values, (0, 0), _FINE_SIGMA)
    contrast = np.sqrt(cv2.GaussianBlur(values * values, (0, 0), _CONTRAST_SIGMA))
    texture: NDArray[np.float32] = values / (contrast + np.float32(_CONTRAST_FLOOR))
    return texture


def _soft_window(shape: tuple[int, ...]) -> NDArray[np.float32]:
    rows, columns = (
        np.clip((np.minimum(np.arange(n), np.arange(n)[::-1]) + 1) / _SOFT_EDGE, 0, 1)
        for n in shape
    )
    window: NDArray[np.float32] = np.outer(rows, columns).astype(np.float32)
    return window


def _centre(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    top, left = (max(0, (n - limit) // 2) for n, limit in zip(values.shape, size, strict=True))
    return values[top : top + size[0], left : left + size[1]].copy()


def _resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    resized: NDArray[np.uint8] = cv2.resize(
        pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA
    )
    return resized
