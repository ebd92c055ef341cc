"""Pairs worth a second look among many images, found without a full look at each pair.

Close perceptual hashes are found exactly. Similar texture is found in two steps: all pairs are
compared in a few numbers at a few shifts, by matrix products; those that are alike there, at every
shift in the band of frequencies that holds most of the texture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from busi_monai.threads import computing_threads, in_order

__all__ = ["band_of", "close_hashes", "similar_textures"]

Floats = NDArray[np.float32]
Spectra = NDArray[np.complex64]
Pairs = NDArray[np.int64]

GRID = (64, 96)
"""Rows and columns, in px, on which textures lie."""

# tissue lies in layers: most texture has vertical periods of 5 to 32 px and long horizontal ones
_ROWS = np.array([*range(2, 15), *range(-14, -1)])
_COLUMNS = np.arange(13)
_COARSE = (np.abs(_ROWS) <= 12, _COLUMNS <= 4)  # of these, what the first step compares
_NUMBERS = 64
_LEARNT_FROM = 4096  # images, evenly spaced
# (down, right) in px: copies and frames lie beside each other, seldom above each other
_SHIFTS = (
    *((0, right) for right in (-18, -9, 0, 9, 18)),
    *((down, 0) for down in (-4, -2, 2, 4)),
)
COARSE_CORRELATION = 0.52
BAND_CORRELATION = 0.44
"""From these on, a pair is looked at further."""

_BLOCK = 512  # rows and columns of a product, 1 MB, which stays in the processor's cache
_AT_ONCE = 512  # pairs whose bands are correlated in one go, some 10 MB


def close_hashes(hashes: NDArray[np.bool_], most: int) -> Pairs:
    """Return the pairs (M, 2), i < j, of hashes (N, bits) that differ in ``most`` bits or fewer.

    Examples:
        >>> close_hashes(np.array([[True, False], [True, True], [False, True]]), 1).tolist()
        [[0, 1], [1, 2]]
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))  # sums of ±1 are exact
    return _pairs_from(lambda rows: [signs[rows]], signs, hashes.shape[1] - 2 * most)


def band_of(spectra: Spectra) -> Spectra:
    """Return the band (N, 26, 13) of spectra (N, 64, 49) of textures on ``GRID``."""
    return np.ascontiguousarray(spectra[:, _ROWS[:, None], _COLUMNS])


def similar_textures(bands: Spectra) -> Pairs:
    """Return the pairs (M, 2), i < j, whose texture may correlate at some shift.

    The first step covers shifts from the upper left corner of up to 20 px to the side or 5 px up
    or down on ``GRID``, where the median image is 60 px long: what was cut off at the left, at the
    top (up to some 10 % of the height), or to any extent at the right or the bottom. Weak pairs,
    with a correlation below 0.5, are found mostly, not always.

    Args:
        bands: (N, 26, 13), from ``band_of``.
    """
    if len(bands) < 2:
        return np.empty((0, 2), np.int64)
    rows, columns = np.ix_(*_COARSE)
    coarse = np.ascontiguousarray(bands[:, rows, columns])
    sample = coarse[:: -(-len(coarse) // _LEARNT_FROM)]
    weights = np.sqrt(np.where(_COLUMNS[_COARSE[1]] > 0, 2.0, 1.0))  # the other half is conjugate
    strength = np.sqrt(np.mean(np.abs(sample * weights) ** 2, axis=0))
    weights = np.divide(
        weights, np.sqrt(strength), out=np.zeros_like(strength), where=strength > 0
    ).astype(np.float32)
    known = _numbers(sample * weights)
    basis = np.linalg.eigh((known.T @ known).astype(np.float64))[1]
    basis = np.ascontiguousarray(basis[:, -_NUMBERS:], dtype=np.float32)
    turns = [_turn(*shift)[rows, columns] * weights for shift in _SHIFTS]

    def views(images: slice) -> list[Floats]:
        return [_unit(_numbers(coarse[images] * turn) @ basis) for turn in turns]

    still = np.concatenate(
        [
            _unit(_numbers(coarse[i : i + _BLOCK] * weights) @ basis)
            for i in range(0, len(coarse), _BLOCK)
        ]
    )
    return _alike_at_some_shift(bands, _pairs_from(views, still, COARSE_CORRELATION))


def _pairs_from(views: Callable[[slice], Sequence[Floats]], known: Floats, least: float) -> Pairs:
    """Return the pairs i < j where some view of i has a product of ``least`` with j's vector."""

    def pairs(first: int) -> Pairs:
        shown = views(slice(first, first + _BLOCK))
        found = [np.empty((0, 2), np.int64)]
        for start in range(first, len(known), _BLOCK):
            columns = known[start : start + _BLOCK].T
            alike = shown[0] @ columns >= least
            for view in shown[1:]:
                alike |= view @ columns >= least
            i, j = np.nonzero(alike)
            both = np.stack([i + first, j + start], axis=1)
            found.append(both[both[:, 0] < both[:, 1]])
        return np.concatenate(found)

    return np.concatenate(list(in_order(pairs, range(0, len(known), _BLOCK), computing_threads())))


def _alike_at_some_shift(bands: Spectra, pairs: Pairs) -> Pairs:
    height, width = GRID[0], 2 * (len(_COLUMNS) + 3)  # every px down, every third to the right

    def alike(start: int) -> Pairs:
        i, j = pairs[start : start + _AT_ONCE].T
        spectra = np.zeros((len(i), height, width // 2 + 1), np.complex64)
        spectra[:, _ROWS[:, None], _COLUMNS] = bands[i].conj() * bands[j]
        peaks = scipy.fft.irfft2(spectra, s=(height, width), overwrite_x=True).max(axis=(1, 2))
        peaks *= height * width / (GRID[0] * GRID[1])
        return pairs[start : start + _AT_ONCE][peaks >= BAND_CORRELATION * energy[i] * energy[j]]

    energy = _energy(bands)
    return np.concatenate(
        [pairs[:0], *in_order(alike, range(0, len(pairs), _AT_ONCE), computing_threads())]
    )


def _energy(bands: Spectra) -> Floats:
    """Return the norm of each band as a texture on ``GRID``."""
    halves = np.sum(np.abs(bands) ** 2, axis=1)
    halves[:, 1:] *= 2
    energy: Floats = np.sqrt(halves.sum(axis=1) / (GRID[0] * GRID[1]))
    return np.maximum(energy, np.float32(1e-6))


def _turn(down: float, right: float) -> Any:
    """Return what shifts a band."""
    return np.exp(-2j * np.pi * (_ROWS[:, None] * down / GRID[0] + _COLUMNS * right / GRID[1]))


def _numbers(values: NDArray[np.complexfloating[Any, Any]]) -> Floats:
    flat = values.reshape(len(values), -1)
    return np.concatenate([flat.real, flat.imag], axis=1).astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
