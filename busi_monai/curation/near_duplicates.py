"""Images that show the same view: exact copies, rescaled, cropped or annotated ones.

Two looks. First, candidates: pairs whose perceptual hashes are close, and pairs whose fine texture
correlates at some shift (a crop moves the hash far away). Then the aligned correlation decides.
Neighbouring frames of one scan also count where they hold the same texture: both on one side of a
split leak nothing, apart they do. Mirrored copies and copies both cropped and rescaled are not
looked for.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import imagehash
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from busi_monai.datasets.listing import natural_key
from busi_monai.errors import InputError
from busi_monai.io.images import pixel_sha256

__all__ = [
    "CONFIRMING_CORRELATION",
    "PHASH_CANDIDATE_BITS",
    "Fingerprint",
    "NearDuplicates",
    "Pair",
    "aligned_mask_iou",
    "find_near_duplicates",
    "fingerprint",
    "group_fingerprints",
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

# of laying one image's mask over another's
_SIDE = 128  # px, the longer side
_LEAST_CORRELATION = 0.4
_LEAST_OVERLAP = 0.3
_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)

PHASH_CANDIDATE_BITS = 10
"""Pairs of perceptual hashes (64 bits) up to this distance are looked at again, stretched onto each
other. Unrelated images start to come in numbers at 12; known copies end at 6."""

CONFIRMING_CORRELATION = 0.40
"""From this aligned correlation on, two images are near-duplicates. In the 1.4 million pairs
within BUSI and within BUS-BRA (its folds 1 to 4), unrelated images end at 0.38 and known copies
begin at 0.52; what lies between are frames of one lesion from one scan. docs/audit.md names the
pairs of BUSI that lie nearest on both sides."""

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
        thumbnail=_resize(grey, _scaled((height, width), factor, 2)),
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
        size = _scaled(known.shape, scale)
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
    """
    surfaces = scipy.fft.irfft2(one.conj()[None] * others, s=grid, overwrite_x=True, workers=2)
    best: NDArray[np.float32] = surfaces.reshape(len(others), -1).max(axis=1)
    return best


def fine_texture(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Remove what is coarse and even out the local contrast."""
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


def _resize(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)


def aligned_mask_iou(
    one: Fingerprint,
    one_mask: NDArray[np.bool_],
    other: Fingerprint,
    other_mask: NDArray[np.bool_],
) -> float | None:
    """Return the IoU of two masks where both images show the same, or ``None`` if they don't fit.

    The images are registered by shift, then by an affine map that maximises the correlation of
    their fine texture (Evangelidis and Psarakis, IEEE TPAMI 30(10), 2008). Two masks that are empty
    there agree: 1.
    """
    factor = _SIDE / max(*one.shape, *other.shape)
    best: tuple[float, NDArray[np.float32], tuple[int, int], tuple[int, int]] | None = None
    for sizes in (
        (_scaled(one.shape, factor), _scaled(other.shape, factor)),
        (_scaled(one.shape, _SIDE / max(one.shape)),) * 2,
    ):
        fit = _register(_texture(one, sizes[0]), _texture(other, sizes[1]))
        if fit is not None and (best is None or fit[0] > best[0]):
            best = (*fit, *sizes)
    if best is None or best[0] < _LEAST_CORRELATION:
        return None
    _, warp, one_size, other_size = best
    seen = _warped(np.ones(other_size, np.float32), warp, one_size) >= 0.5
    first = (_resized(one_mask, one_size) >= 0.5) & seen
    second = _warped(_resized(other_mask, other_size), warp, one_size) >= 0.5
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 1.0


def _register(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32]] | None:
    """Return the correlation and the affine map from ``one``'s to ``other``'s coordinates."""
    warp = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    warp[:, 2] = _best_shift(one, other)
    try:
        _, fitted = cv2.findTransformECC(one, other, warp, cv2.MOTION_AFFINE, _STEPS, None, 3)
    except cv2.error:  # raised where it does not converge
        return None
    warp = fitted.astype(np.float32)
    size = (one.shape[0], one.shape[1])
    seen = _warped(np.ones_like(other), warp, size) >= 0.5
    if np.count_nonzero(seen) < _LEAST_OVERLAP * min(one.size, other.size):
        return None
    moved = _warped(other, warp, size)
    return float(np.corrcoef(one[seen], moved[seen])[0, 1]), warp


def _best_shift(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[int, int]:
    """Return (x, y) by which ``one`` lies within ``other``, from their cross-correlation."""
    height, width = (a + b for a, b in zip(one.shape, other.shape, strict=True))
    spectrum = np.fft.rfft2(one, s=(height, width)).conj()
    spectrum *= np.fft.rfft2(other, s=(height, width))
    surface = np.fft.irfft2(spectrum, s=(height, width))
    y, x = (int(v) for v in np.unravel_index(int(surface.argmax()), surface.shape))
    return (
        x - width if x >= other.shape[1] else x,
        y - height if y >= other.shape[0] else y,
    )


def _scaled(shape: tuple[int, int], factor: float, least: int = 8) -> tuple[int, int]:
    return max(least, round(shape[0] * factor)), max(least, round(shape[1] * factor))


def _texture(known: Fingerprint, size: tuple[int, int]) -> NDArray[np.float32]:
    return fine_texture(_resize(known.thumbnail, size))


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    return _resize(mask.astype(np.float32), size)


def _warped(
    values: NDArray[np.float32], warp: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float32]:
    warped: NDArray[np.float32] = cv2.warpAffine(
        values, warp, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return warped


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
    """Find near-duplicates among fingerprints; the time grows with the square of their number.

    780 images take some 4 seconds on one core.
    """
    ids = sorted(prints, key=natural_key)
    if len(ids) < 2:
        return NearDuplicates()
    ordered = [prints[case_id] for case_id in ids]
    distances = hash_distances(np.stack([p.phash for p in ordered]))
    found = _shifted_pairs(ordered)
    for (i, j), correlation in _stretched_pairs(ordered, distances).items():
        found[i, j] = max(correlation, found.get((i, j), 0.0))
    exact = _several(known.sha256 for known in ordered)
    for same in exact:
        found.update({(same[0], other): 1.0 for other in same[1:]})
    pairs = [
        Pair(ids[i], ids[j], int(distances[i, j]), round(min(1.0, found[i, j]), 4))
        for i, j in sorted(found)
    ]
    connected = np.zeros((len(ids), len(ids)), dtype=bool)
    connected[tuple(np.array(list(found), dtype=int).reshape(-1, 2).T)] = True
    groups = _several(connected_components(csr_matrix(connected), directed=False)[1].tolist())
    _log.info("%d images, %d near-duplicate groups", len(ids), len(groups))
    return NearDuplicates(
        groups=[[ids[i] for i in group] for group in groups],
        exact=[[ids[i] for i in group] for group in exact],
        pairs=pairs,
    )


def _shifted_pairs(ordered: Sequence[Fingerprint]) -> dict[tuple[int, int], float]:
    """Compare all pairs at one scale: crops, and copies of the same size."""
    scale = common_scale(ordered)
    spectra = np.stack([spectrum(p, scale=scale)[0] for p in ordered])
    found: dict[tuple[int, int], float] = {}
    for i in range(len(ordered) - 1):
        for start in range(i + 1, len(ordered), _BLOCK):
            correlations = shifted_correlations(spectra[i], spectra[start : start + _BLOCK], GRID)
            for offset in np.flatnonzero(correlations >= CONFIRMING_CORRELATION):
                found[i, start + int(offset)] = float(correlations[offset])
    return found


def _stretched_pairs(
    ordered: Sequence[Fingerprint], distances: NDArray[np.int32]
) -> dict[tuple[int, int], float]:
    """Compare pairs of close hashes, both stretched to one square: rescaled copies."""
    close = np.argwhere(np.triu(distances <= PHASH_CANDIDATE_BITS, 1))
    spectra = {int(i): spectrum(ordered[i])[0] for i in np.unique(close)}
    found: dict[tuple[int, int], float] = {}
    for i, j in close.tolist():
        correlation = float(shifted_correlations(spectra[i], spectra[j][None], SQUARE)[0])
        if correlation >= CONFIRMING_CORRELATION:
            found[i, j] = correlation
    return found


def _several(names: Iterable[Hashable]) -> list[list[int]]:
    """Return the places of each name that stands more than once."""
    places: dict[Hashable, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    return [same for same in places.values() if len(same) > 1]
