"""A case's lesion from its mask files, and the clean-up of speckled ground truth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from busi_monai.cases import Case
from busi_monai.errors import ImageReadError
from busi_monai.io.images import read_image, read_mask
from busi_monai.outlines import Outline

__all__ = ["MAX_BORDER", "MAX_FRACTION", "case_mask", "clean_mask", "individual_masks",
           "lesion_mask"]  # fmt: skip

logger = logging.getLogger(__name__)

MAX_FRACTION = 0.75
"""Of the image's pixels. The largest lesion of BUSI, BUS-BRA, BUS-UCLM and BrEaST takes 0.58."""

MAX_BORDER = 0.5
"""Of the image's border. The lesion that leaves the image most widely takes 0.07 of it there."""

_EXIF_ORIENTATION = 0x0112

_TURNS: dict[int, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    5: np.transpose,
    6: lambda mask: np.rot90(mask, -1),
    7: lambda mask: np.rot90(mask, 2).T,
    8: np.rot90,
}  # from stored to upright, by EXIF orientation


def lesion_mask(
    case: Case, *, cleanup: bool = False, size: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Return the union of a case's masks, (H, W) bool at the image's native size.

    A case without mask files gives an all-``False`` mask of the image's size.

    Args:
        case: one image with none to several mask files.
        cleanup: whether each mask passes through ``clean_mask`` before the union.
        size: (H, W) of the image where that is known; otherwise the image is opened for it.

    Raises:
        ImageReadError: if a file cannot be read, or a mask cannot be used (see ``case_mask``).
    """
    size = size or _image_size(case.image)
    union = np.zeros(size, dtype=bool)
    for mask in individual_masks(case, size=size):
        union |= clean_mask(mask) if cleanup else mask
    return union


def individual_masks(case: Case, *, size: tuple[int, int] | None = None) -> list[NDArray[np.bool_]]:
    """Return each mask of a case as (H, W) bool, in the order of ``case.masks``."""
    size = size or _image_size(case.image)
    return [case_mask(case, path, size) for path in case.masks]


def case_mask(case: Case, path: Path | Outline, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return one mask of a case as (H, W) bool: the one place where an image gets its pixels.

    Args:
        case: the case.
        path: one of ``case.masks``, a file or an outline.
        size: (H, W) of the image.

    Raises:
        ImageReadError: if the file cannot be read, its values are no mask's (see
            ``lesion_pixels``), its size differs from the image's, or it covers so much of the image
            or of its border that lesion and background seem to be swapped. ``kind`` tells which.
    """
    mask = _drawn(case, path, size) if isinstance(path, Outline) else read_mask(path)
    if mask.shape != size:
        raise ImageReadError(
            f"{path}: expected the size of {case.image.name}, {size[1]}×{size[0]} pixels, "
            f"found {mask.shape[1]}×{mask.shape[0]}; replace the mask or leave the case out",
            kind="size_mismatch",
        )
    fraction = float(mask.mean())
    border = float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())
    if fraction > MAX_FRACTION or border > MAX_BORDER:
        raise ImageReadError(
            f"{path}: inverted? The lesion covers {fraction:.0%} of the image and {border:.0%} of "
            f"its border, expected at most {MAX_FRACTION:.0%} and {MAX_BORDER:.0%}; save the "
            "lesion as 255 on 0",
            kind="inverted_mask",
        )
    return mask


def _drawn(case: Case, outline: Outline, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return an outline's mask; on a turned image, only where its stated size tells which it fits.

    EXIF tags turn an image, and programs draw on the stored or on the turned pixels. Orientations
    from 5 on swap height and width; no size tells those up to 4 apart.
    """
    orientation = _orientation(case.image)
    if orientation == 1:
        return outline.mask(size)
    if orientation >= 5 and size[0] != size[1]:
        if outline.size == size:
            return outline.mask(size)
        if outline.size == size[::-1]:
            return _TURNS[orientation](outline.mask(size[::-1]))
    raise ImageReadError(
        f"{outline}: EXIF turns {case.image.name} (orientation {orientation}), and nothing tells "
        "whether the outline was drawn on the turned image; save it upright without EXIF and "
        "annotate it again",
        kind="annotation",
    )


def clean_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Clean up speckled ground truth: close gaps, fill holes, smooth the edge, drop specks.

    Closing and then opening by a disk (0.5 % of the shorter side), holes filled in between; then
    every connected part smaller than 2 % of the largest is dropped. A mask of one clean shape keeps
    its area to within its edge. Applied twice, it changes next to nothing.

    Args:
        mask: (H, W), non-zero on the lesion.

    Returns:
        (H, W) bool. A mask that is all specks keeps its largest part rather than become empty.

    Examples:
        >>> speckled = np.zeros((40, 40), dtype=bool)
        >>> speckled[10:30, 10:30] = True
        >>> speckled[20, 20] = False
        >>> speckled[2, 2] = True
        >>> cleaned = clean_mask(speckled)
        >>> bool(cleaned[20, 20]), bool(cleaned[2, 2])
        (True, False)
    """
    solid = np.asarray(mask) > 0
    if not solid.any():
        return solid
    radius = max(1, round(min(solid.shape) * 0.005))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    # padded, so that a lesion cut by the image's edge is not eaten from there
    margin = 2 * radius + 1
    padded = np.pad(solid, margin, mode="edge").astype(np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk)
    inner = slice(margin, -margin)
    filled = ndimage.binary_fill_holes(closed[inner, inner])
    refilled = np.pad(filled, margin, mode="edge").astype(np.uint8)
    opened = cv2.morphologyEx(refilled, cv2.MORPH_OPEN, disk)[inner, inner] > 0
    whole = opened if opened.any() else filled
    labels, count = ndimage.label(whole, structure=np.ones((3, 3), dtype=int))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    kept: NDArray[np.bool_] = (areas >= max(1.0, 0.02 * areas.max()))[labels]
    return kept


def _orientation(path: Path) -> int:
    """Return an image's EXIF orientation; 1 where its format or the file has none."""
    try:
        with Image.open(path) as image:
            stated = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception as error:
        logger.debug("%s: no EXIF (%s)", path, error)
        return 1
    return stated if stated in range(2, 9) else 1


def _image_size(path: Path) -> tuple[int, int]:
    """Return (H, W) as ``read_image`` gives it, from the header alone where that is enough."""
    try:
        with Image.open(path) as image:
            # Pillow turns some formats already when it opens them, others not
            if image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
                return image.height, image.width
    except Exception as error:
        # not Pillow's format, or damaged in whatever way: read_image knows, or says what is wrong
        logger.debug("%s: no size from its header (%s)", path, error)
    height, width = read_image(path).pixels.shape
    return height, width
