"""Images that show the same view: exact copies, rescaled, cropped or annotated ones.

Two looks. First, candidates: pairs whose perceptual hashes are close, and pairs whose fine texture
may correlate at some shift (a crop moves the hash far away): all pairs of a small set, of a large
one those that ``similar_textures`` names. Then the aligned correlation decides.
Neighbouring frames of one scan also count where they hold the same texture: both on one side of a
split leak nothing, apart they do. Mirrored copies and copies both cropped and rescaled are not
looked for.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import imagehash
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from busi_monai.curation.candidates import (
    GRID,
    band_of,
    close_hashes,
    similar_textures,
)
from busi_monai.datasets.listing import natural_key
from busi_monai.errors import InputError
from busi_monai.io.images import pixel_sha256
from busi_monai.threads import computing_threads, in_order

__all__ = [
    "CONFIRMING_CORRELATION",
    "PHASH_CANDIDATE_BITS",
    "Fingerprint",
    "NearDuplicates",
    "Pair",
    "find_near_duplicates",
    "fine_texture",
    "fingerprint",
    "group_fingerprints",
    "resized",
    "scaled",
    "texture_candidates",
]

THUMBNAIL_SIDE = 160

# The texture is compared at about the size at which speckle has averaged out and tissue layers,
# lesion borders and calipers remain: the median image's longer side becomes 60 px.
COMPARED_SIDE = 60
SQUARE = (64, 64)

_FINE_SIGMA = 3.0  # px; what is coarser (depth gain, shadows) is alike in unrelated images
_CONTRAST_SIGMA = 5.0
_CONTRAST_FLOOR = 4 / 255  # keeps noise in black borders from being amplified
_SOFT_EDGE = 4  # px

PHASH_CANDIDATE_BITS = 10
"""Pairs of perceptual hashes (64 bits) up to this distance are looked at again, stretched onto each
other. Unrelated images start to come in numbers at 12; known copies end at 6."""

CONFIRMING_CORRELATION = 0.40
"""From this aligned correlation on, two images are near-duplicates. In the 1.4 million pairs
within BUSI and within BUS-BRA (its folds 1 to 4), unrelated images end at 0.38 and known copies
begin at 0.52; what lies between are frames of one lesion from one scan. docs/audit.md names the
pairs of BUSI that lie nearest on both sides."""

COMPARED_WHOLLY = 2000
"""Up to so many images, the texture of all pairs is compared in full, which takes seconds."""

# spectra of a block: 64 × 64 × 49 × 8 bytes = 1.6 MB, which stays in the processor's cache
_BLOCK = 64
_log = logging.getLogger(__name__)


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
    """Return the fingerprint of an image."""
    grey = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    height, width = grey.shape
    factor = min(1.0, THUMBNAIL_SIDE / max(height, width))
    return Fingerprint(
        sha256=sha256 or pixel_sha256(pixels),
        phash=np.asarray(imagehash.phash(Image.fromarray(grey)).hash, dtype=bool).ravel(),
        thumbnail=resized(grey, scaled((height, width), factor, 2)),
        shape=(height, width),
    )


def common_scale(prints: Sequence[Fingerprint]) -> float:
    """Return the factor that brings the median image's longer side to ``COMPARED_SIDE``."""
    return min(1.0, COMPARED_SIDE / float(np.median([max(p.shape) for p in prints])))


def spectrum(known: Fingerprint, *, scale: float | None = None) -> NDArray[np.complex64]:
    """Return the Fourier transform of an image's fine texture, of energy one.

    Args:
        known: the image's fingerprint.
        scale: resize the image by this factor onto ``GRID``, so that crops of one image hold
            equal texture; ``None`` stretches the image to ``SQUARE`` instead, so that rescaled
            copies hold equal texture.
    """
    grid = SQUARE if scale is None else GRID
    size = SQUARE if scale is None else scaled(known.shape, scale)
    texture = _centre(fine_texture(resized(known.thumbnail, size)), grid)
    texture *= _soft_window(texture.shape)
    energy = float(np.linalg.norm(texture))
    if energy > 0:
        texture /= energy
    transform: NDArray[np.complex64] = scipy.fft.rfft2(texture, s=grid).astype(
        np.complex64, copy=False
    )
    return transform


def shifted_correlations(
    ones: NDArray[np.complex64], others: NDArray[np.complex64], grid: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the correlations of textures with others, or of one with several, at the best shift.

    Cross-correlation by Fourier transform (Brown, ACM Computing Surveys 24(4), 1992, section 3.1),
    with the contrast evened out beforehand instead of the spectrum. What one image holds and the
    other doesn't counts as uncorrelated, so the figure also says how much of them is shared.
    """
    surfaces = scipy.fft.irfft2(ones.conj() * others, s=grid, overwrite_x=True)
    best: NDArray[np.float32] = surfaces.reshape(len(others), -1).max(axis=1)
    return best


def fine_texture(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Remove what is coarse and even out the local contrast."""
    values = pixels.astype(np.float32) / np.float32(255)
    values = values - cv2.GaussianBlur(values, (0, 0), _FINE_SIGMA)
    contrast = np.sqrt(cv2.GaussianBlur(values * values, (0, 0), _CONTRAST_SIGMA))
    texture: NDArray[np.float32] = values / (contrast + np.float32(_CONTRAST_FLOOR))
    return texture


@lru_cache(maxsize=256)
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


def resized(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return pixels in another size, (height, width), by area."""
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)


def scaled(shape: tuple[int, int], factor: float, least: int = 8) -> tuple[int, int]:
    """Return a size times ``factor``, each side at least ``least``."""
    return max(least, round(shape[0] * factor)), max(least, round(shape[1] * factor))


@dataclass(frozen=True)
class Pair:
    """Two near-duplicates."""

    a: str
    b: str
    distance: int
    correlation: float


@dataclass(frozen=True)
class NearDuplicates:
    """What was found among some images; all ids in natural order.

    Attributes:
        groups: connected near-duplicates, each of two ids or more.
        exact: ids of equal pixels, each of two or more; subsets of the groups.
        pairs: the confirmed pairs that connect the groups.
    """

    groups: list[list[str]] = field(default_factory=list)
    exact: list[list[str]] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)


def find_near_duplicates(
    images: Mapping[str, NDArray[np.float32]] | Iterable[tuple[str, NDArray[np.float32]]],
) -> NearDuplicates:
    """Find near-duplicates among images, of which one at a time is held.

    Args:
        images: (H, W) images in [0, 1] by id, or pairs of id and image, as from a generator.

    Raises:
        InputError: if an id comes twice.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> scan, other = rng.random((2, 12, 16), dtype=np.float32).repeat(8, 1).repeat(8, 2)
        >>> crop = scan[4:, :100]
        >>> find_near_duplicates({"b": scan, "a": crop, "c": other}).groups
        [['a', 'b']]
    """
    pairs = images.items() if isinstance(images, Mapping) else images
    prints: dict[str, Fingerprint] = {}
    for case_id, pixels in pairs:
        if case_id in prints:
            raise InputError(f"two images have the id {case_id!r}; expected each id once")
        prints[case_id] = fingerprint(pixels)
    return group_fingerprints(prints)


def group_fingerprints(prints: Mapping[str, Fingerprint]) -> NearDuplicates:
    """Find near-duplicates among fingerprints.

    Memory grows with their number, time with its square; above ``COMPARED_WHOLLY`` images slowly.
    """
    ids = sorted(prints, key=natural_key)
    if len(ids) < 2:
        return NearDuplicates()
    ordered = [prints[case_id] for case_id in ids]
    hashes = np.stack([p.phash for p in ordered])
    found = _shifted_pairs(ordered)
    close = close_hashes(hashes, PHASH_CANDIDATE_BITS)
    for (i, j), correlation in _confirmed(ordered, close, None).items():
        found[i, j] = max(correlation, found.get((i, j), 0.0))
    exact = _several(known.sha256 for known in ordered)
    for same in exact:
        found.update({(same[0], other): 1.0 for other in same[1:]})
    pairs = [
        Pair(
            ids[i],
            ids[j],
            int(np.count_nonzero(hashes[i] != hashes[j])),
            round(min(1.0, found[i, j]), 4),
        )
        for i, j in sorted(found)
    ]
    places = np.array(list(found), dtype=int).reshape(-1, 2).T
    connected = coo_matrix((np.ones(len(found), dtype=bool), places), (len(ids), len(ids)))
    groups = _several(connected_components(connected, directed=False)[1].tolist())
    _log.info("%d images, %d near-duplicate groups", len(ids), len(groups))
    return NearDuplicates(
        groups=[[ids[i] for i in group] for group in groups],
        exact=[[ids[i] for i in group] for group in exact],
        pairs=pairs,
    )


def texture_candidates(prints: Sequence[Fingerprint], scale: float) -> NDArray[np.int64]:
    """Return the pairs (M, 2), i < j, of many images whose texture may correlate at some shift."""

    def bands(start: int) -> NDArray[np.complex64]:
        return band_of(_spectra(prints[start : start + _BLOCK], scale))

    starts = range(0, len(prints), _BLOCK)
    return similar_textures(np.concatenate(list(in_order(bands, starts, computing_threads()))))


def _spectra(prints: Sequence[Fingerprint], scale: float | None) -> NDArray[np.complex64]:
    return np.stack([spectrum(known, scale=scale) for known in prints])


def _shifted_pairs(ordered: Sequence[Fingerprint]) -> dict[tuple[int, int], float]:
    """Compare pairs at one scale: crops, and copies of the same size."""
    scale = common_scale(ordered)
    if len(ordered) > COMPARED_WHOLLY:
        return _confirmed(ordered, texture_candidates(ordered, scale), scale)
    spectra = _spectra(ordered, scale)

    def later(i: int) -> dict[tuple[int, int], float]:
        found = {}
        for start in range(i + 1, len(ordered), _BLOCK):
            correlations = shifted_correlations(spectra[i], spectra[start : start + _BLOCK], GRID)
            for offset in np.flatnonzero(correlations >= CONFIRMING_CORRELATION):
                found[i, start + int(offset)] = float(correlations[offset])
        return found

    return _merged(in_order(later, range(len(ordered) - 1), computing_threads()))


def _confirmed(
    ordered: Sequence[Fingerprint], pairs: NDArray[np.int64], scale: float | None
) -> dict[tuple[int, int], float]:
    """Return the correlations of those candidates, (M, 2), that are near-duplicates."""

    def look(start: int) -> dict[tuple[int, int], float]:
        chunk = pairs[start : start + _BLOCK]
        needed, places = np.unique(chunk, return_inverse=True)
        spectra = _spectra([ordered[i] for i in needed], scale)
        ones, others = places.reshape(-1, 2).T
        correlations = shifted_correlations(
            spectra[ones], spectra[others], SQUARE if scale is None else GRID
        )
        return {
            (int(i), int(j)): float(correlation)
            for (i, j), correlation in zip(chunk, correlations, strict=True)
            if correlation >= CONFIRMING_CORRELATION
        }

    return _merged(in_order(look, range(0, len(pairs), _BLOCK), computing_threads()))


def _merged(parts: Iterable[dict[tuple[int, int], float]]) -> dict[tuple[int, int], float]:
    return {pair: value for part in parts for pair, value in part.items()}


def _several(names: Iterable[Hashable]) -> list[list[int]]:
    """Return the places of each name that stands more than once."""
    places: dict[Hashable, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    return [same for same in places.values() if len(same) > 1]
