"""Labels as annotation tools write them: whole numbers in PNG, BMP, TIFF, NIfTI or NRRD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busi_monai.errors import ImageReadError

__all__ = ["LABEL_SUFFIXES", "read_label_values"]

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd")
"""JPEG is not among them: it blurs a label's edge."""


def read_label_values(path: str | Path) -> NDArray[np.integer[Any]]:
    """Return the numbers that were drawn, 0 where nothing was.

    Volumes of one slice are taken in index order (first axis = columns); of colours the highest
    channel counts, and transparent pixels are background.

    Args:
        path: file ending in one of ``LABEL_SUFFIXES``.

    Returns:
        (H, W) whole numbers.

    Raises:
        ImageReadError: if the file cannot be read, is no single slice, or holds other numbers.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith(LABEL_SUFFIXES):
        raise ImageReadError(f"{path}: expected a label in {', '.join(LABEL_SUFFIXES)}")
    try:
        if name.endswith(".nrrd"):
            values = _slice(_read_nrrd(path), path)
        elif name.endswith((".nii", ".nii.gz")):
            import nibabel

            values = _slice(np.asarray(nibabel.load(path).dataobj), path)
        else:
            values = _read_raster(path)
    except (ImageReadError, ModuleNotFoundError):
        raise
    except Exception as error:
        # three libraries, whose errors have no base in common
        raise ImageReadError(f"{path}: cannot be read as a label: {error}") from error
    if values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise ImageReadError(f"{path}: a label holds whole numbers; probabilities are no label")
    if values.dtype.kind not in "biuf":
        raise ImageReadError(f"{path}: a label holds whole numbers, found {values.dtype}")
    return values.astype(np.int64)


def _read_raster(path: Path) -> NDArray[Any]:
    with Image.open(path) as opened:
        if opened.mode == "P":
            return np.array(opened)  # the palette's indices are the segments
        if opened.mode in {"RGBA", "LA", "PA"}:
            drawn = np.array(opened.convert("RGBA"))
            return np.where(drawn[..., 3] > 0, drawn[..., :3].max(axis=2), 0)
        values = np.array(opened)
    return values.max(axis=2) if values.ndim == 3 else values


def _read_nrrd(path: Path) -> NDArray[Any]:
    try:
        import nrrd
    except ModuleNotFoundError:
        raise ImageReadError(
            f"{path}: NRRD is read by pynrrd, which is not installed: pip install pynrrd"
        ) from None
    values: NDArray[Any] = nrrd.read(str(path))[0]
    return values


def _slice(values: NDArray[Any], path: Path) -> NDArray[Any]:
    flat = values.reshape([side for axis, side in enumerate(values.shape) if axis < 2 or side != 1])
    if flat.ndim != 2:
        raise ImageReadError(f"{path}: expected a label of one slice, found {values.shape}")
    return flat.T
