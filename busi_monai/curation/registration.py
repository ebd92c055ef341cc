"""Masks of two images that show the same view, laid over each other."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.curation.near_duplicates import Fingerprint, fine_texture, resized, scaled

__all__ = ["aligned_mask_iou"]

_SIDE = 128  # px, the longer side
_LEAST_CORRELATION = 0.4
_LEAST_OVERLAP = 0.3
_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)


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
        (scaled(one.shape, factor), scaled(other.shape, factor)),
        (scaled(one.shape, _SIDE / max(one.shape)),) * 2,
    ):
        fit = _register(_texture(one, sizes[0]), _texture(other, sizes[1]))
        if fit is not None and (best is None or fit[0] > best[0]):
            best = (*fit, *sizes)
    if best is None or best[0] < _LEAST_CORRELATION:
        return None
    _, warp, one_size, other_size = best
    seen = _warped(np.ones(other_size, np.float32), warp, one_size) >= 0.5
    first = (_mask_in(one_mask, one_size) >= 0.5) & seen
    second = _warped(_mask_in(other_mask, other_size), warp, one_size) >= 0.5
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


def _texture(known: Fingerprint, size: tuple[int, int]) -> NDArray[np.float32]:
    return fine_texture(resized(known.thumbnail, size))


def _mask_in(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    return resized(mask.astype(np.float32), size)


def _warped(
    values: NDArray[np.float32], warp: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float32]:
    warped: NDArray[np.float32] = cv2.warpAffine(
        values, warp, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return warped
