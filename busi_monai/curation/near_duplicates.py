"""Images that show the same view: exact copies, rescaled, cropped or annotated ones.

Two looks. First, candidates: pairs whose perceptual hashes are close, and pairs whose fine texture
correlates at some shift (a crop moves the hash far away). Then the aligned correlation decides.
Neighbouring frames of one scan also count where they hold the same texture: both on one side of a
split leak nothing, apart they do. Mirrored copies and copies both cropped and rescaled are not
looked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from busi_monai.curation.fingerprints import (
    GRID,
    SQUARE,
    Fingerprint,
    common_scale,
    fingerprint,
    hash_distances,
    shifted_correlations,
    spectrum,
)
from busi_monai.datasets.listing import natural_key
from busi_monai.errors import InputError

__all__ = [
    "CONFIRMING_CORRELATION",
    "PHASH_CANDIDATE_BITS",
    "NearDuplicates",
    "Pair",
    "find_near_duplicates",
    "group_fingerprints",
]

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
class Pair:
    """Two near-duplicates.

    Attributes:
        a: id of one image; naturally before ``b``.
        b: id of the other.
        distance: bits by which the perceptual hashes differ, 0 to 64.
        correlation: of the aligned textures, ``CONFIRMING_CORRELATION`` to 1.
    """

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

    @property
    def members(self) -> set[str]:
        """Ids of the images that have at least one near-duplicate."""
        return {case_id for group in self.groups for case_id in group}


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
    exact = _equal_pixels(ordered)
    for same in exact:
        found.update({(same[0], other): 1.0 for other in same[1:]})
    pairs = [
        Pair(ids[i], ids[j], int(distances[i, j]), round(min(1.0, found[i, j]), 4))
        for i, j in sorted(found)
    ]
    groups = _connected(len(ids), list(found))
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


def _equal_pixels(ordered: Sequence[Fingerprint]) -> list[list[int]]:
    by_hash: dict[str, list[int]] = {}
    for index, known in enumerate(ordered):
        by_hash.setdefault(known.sha256, []).append(index)
    return [same for same in by_hash.values() if len(same) > 1]


def _connected(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    if not pairs:
        return []
    rows, columns = zip(*pairs, strict=True)
    graph = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(index)
    return [group for group in members.values() if len(group) > 1]
