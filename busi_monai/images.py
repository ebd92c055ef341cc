"""Reading ultrasound pictures and masks from files, and writing masks.

Every picture becomes one grey channel (H, W) of float32 in [0, 1], EXIF orientation applied, as
found in size. Formats: PNG, JPEG, BMP, TIFF and what else Pillow reads; NIfTI by nibabel; DICOM by
pydicom. NIfTI pictures are taken in index order (first axis = columns, second = rows).
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from busi_monai.errors import ImageReadError
from busi_monai.files import atomic_file

__all__ = [
    "IMAGE_SUFFIXES",
    "Picture",
    "is_image_file",
    "picture_from_array",
    "pixel_sha256",
    "read_mask",
    "read_picture",
    "write_mask",
    "write_png",
]

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz", ".dcm", ".dicom",
)  # fmt: skip
MAX_PIXELS = 100_000_000

# US Regions (C.8.5.5.1.15): 3 is centimetres
_CENTIMETRES = 3


@dataclass(frozen=True)
class Picture:
    """One ultrasound picture.

    Attributes:
        pixels: (H, W) float32 in [0, 1].
        spacing_mm: (row, column) spacing in millimetres, or ``None`` where the file states none.
        has_colour: whether the file's colour channels differ anywhere.
    """

    pixels: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None = None
    has_colour: bool = False


def is_image_file(path: str | Path) -> bool:
    """Whether the file's name ends like a picture's."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def read_picture(path: str | Path) -> Picture:
    """Read one ultrasound picture.

    Raises:
        ImageReadError: if the file is missing, empty, truncated, of no known format, animated, or
            of more than ``MAX_PIXELS`` pixels; the message names file, reason and remedy.
    """
    path = Path(path)
    values, spacing = _read_values(path)
    colour = values.ndim == 3 and bool(np.any(values != values[..., :1]))
    return Picture(_to_grey(values, path), spacing, colour)


def picture_from_array(values: NDArray[np.generic]) -> Picture:
    """Return pixels that are already in memory as ``read_picture`` would from a file.

    Args:
        values: (H, W), or (H, W, C) with 1 grey, 3 RGB or 4 RGBA channels. ``uint8`` and
            ``uint16`` are divided by their type's range; any other type is taken as [0, 1], else
            as [0, 255], else by its own range.

    Raises:
        ImageReadError: for another shape, a picture of less than 2×2 pixels, NaN or infinity.
    """
    values = np.asarray(values)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in {3, 4}):
        raise ImageReadError(
            f"array: expected shape (H, W) or (H, W, 1, 3 or 4), found {values.shape}"
        )
    if values.dtype == np.uint8:
        scaled = values.astype(np.float32) / np.float32(255)
    elif values.dtype == np.uint16:
        scaled = values.astype(np.float32) / np.float32(65535)
    else:
        scaled = _scale_unknown_range(values.astype(np.float32), "array")
    scaled = _over_black(scaled)
    colour = scaled.ndim == 3 and bool(np.any(scaled != scaled[..., :1]))
    return Picture(_to_grey(scaled, "array"), None, colour)


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read one mask file of any mode as (H, W) bool, ``True`` on the lesion.

    A pixel belongs to the lesion from half of the file's value range on; in colour files the
    brightest channel counts (BUS-UCLM draws in pure red and green), and transparent is background.
    A file that holds only two values, the lower one 0, is a label map: every non-zero pixel counts.

    Raises:
        ImageReadError: as for ``read_picture``.
    """
    path = Path(path)
    values, _ = _read_values(path)
    if values.ndim == 3:
        values = values.max(axis=2)
    levels = np.unique(values)
    if len(levels) == 2 and levels[0] == 0:
        return values > 0
    return values >= 0.5


def write_png(path: str | Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W) grey or (H, W, 3) RGB uint8 pixels as PNG, atomically."""
    with atomic_file(path) as partial:
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial, format="PNG", compress_level=3)


def write_mask(path: str | Path, mask: NDArray[np.generic]) -> None:
    """Write an (H, W) mask (non-zero = lesion) as 8-bit PNG of values 0 and 255, atomically."""
    write_png(path, np.where(np.asarray(mask) > 0, np.uint8(255), np.uint8(0)))


def pixel_sha256(pixels: NDArray[np.float32]) -> str:
    """Return the SHA-256 of a picture's grey pixels, the same in whatever format they are stored.

    Args:
        pixels: (H, W) in [0, 1], as from ``read_picture``; hashed with their shape, as 16 bits.
    """
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}".encode())
    digest.update(np.round(pixels * 65535).astype("<u2").tobytes())
    return digest.hexdigest()


def _read_values(path: Path) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    """Return (H, W) or (H, W, C) values in [0, 1] and the stated spacing."""
    if not path.is_file():
        raise ImageReadError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ImageReadError(f"{path}: the file is empty (0 bytes)")
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _read_nifti(path)
    with path.open("rb") as stream:
        head = stream.read(132)
    if name.endswith((".dcm", ".dicom")) or head[128:132] == b"DICM":
        return _read_dicom(path)
    return _read_pillow(path), None


def _read_pillow(path: Path) -> NDArray[np.float32]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # as a stream: by its name, Pillow maps raw TIFFs and garbles those stored sideways
            with path.open("rb") as stream, Image.open(stream) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ImageReadError(
                        f"{path}: {opened.width}×{opened.height} pixels, more than {MAX_PIXELS:,}"
                    )
                frames = getattr(opened, "n_frames", 1)
                if frames != 1:
                    raise ImageReadError(
                        f"{path}: expected one picture, found {frames} frames; save one as PNG"
                    )
                image = ImageOps.exif_transpose(opened)
                return _pillow_values(image, path)
    except ImageReadError:
        raise
    except UnidentifiedImageError:
        raise ImageReadError(
            f"{path}: not a picture that can be read; expected PNG, JPEG, BMP, TIFF, NIfTI or DICOM"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageReadError(f"{path}: too many pixels to be a picture: {error}") from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, TypeError and more for damaged files
        raise ImageReadError(f"{path}: damaged or truncated ({error}); copy it again") from error


def _pillow_values(image: Image.Image, path: Path) -> NDArray[np.float32]:
    mode = image.mode
    if mode == "1":
        return np.asarray(image, dtype=np.float32)
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        return np.clip(values / 65535, 0, 1, dtype=np.float32)
    if mode == "F":
        return _scale_unknown_range(np.asarray(image, dtype=np.float32), path)
    if mode == "L":
        return np.asarray(image, dtype=np.float32) / np.float32(255)
    has_alpha = mode in {"LA", "PA", "La", "RGBA", "RGBa"} or "transparency" in image.info
    if has_alpha:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / np.float32(255)
        return _over_black(rgba)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)


def _read_nifti(path: Path) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    import nibabel

    try:
        image = nibabel.load(path)
        values = np.squeeze(np.asarray(image.dataobj))
    except Exception as error:
        # nibabel raises its own errors, zlib's and EOFError for damaged files
        raise ImageReadError(f"{path}: not a readable NIfTI file ({error})") from error
    if values.dtype.names:  # RGB24 is a structured type
        values = np.stack([values[channel] for channel in values.dtype.names], axis=-1)
    if values.ndim not in {2, 3} or (values.ndim == 3 and values.shape[2] not in {3, 4}):
        raise ImageReadError(f"{path}: expected one 2-D picture, found shape {image.shape}")
    values = np.swapaxes(values, 0, 1)
    spacing = _nifti_spacing(image.header)
    if values.dtype == np.uint8:
        return _over_black(values.astype(np.float32) / np.float32(255)), spacing
    return _over_black(_scale_unknown_range(values.astype(np.float32), path)), spacing


def _nifti_spacing(header: Any) -> tuple[float, float] | None:
    """Return (row, column) mm; 1 by 1 is what writers put where no spacing is known."""
    to_mm = {"meter": 1000.0, "micron": 0.001}.get(header.get_xyzt_units()[0], 1.0)
    columns, rows = (float(zoom) for zoom in header.get_zooms()[:2])
    if (columns, rows) == (1.0, 1.0) or not (columns > 0 and rows > 0):
        return None
    return rows * to_mm, columns * to_mm


def _over_black(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return RGB for RGBA: what is transparent is black; anything else is returned as it is."""
    if values.ndim == 3 and values.shape[2] == 4:
        return values[..., :3] * values[..., 3:]
    return values


def _scale_unknown_range(values: NDArray[np.float32], source: Path | str) -> NDArray[np.float32]:
    """Bring float or wide integer values to [0, 1]: as they are, by 255, or by their own range."""
    if values.size == 0 or not np.isfinite(values).all():
        raise ImageReadError(f"{source}: the pixels hold NaN or infinite values, or there are none")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return values
    if low >= 0 and high <= 255:
        return values / np.float32(255)
    if low == high:
        raise ImageReadError(f"{source}: every pixel holds {low:g}; expected a picture")
    return (values - np.float32(low)) / np.float32(high - low)


def _read_dicom(path: Path) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=path.suffix.lower() in {".dcm", ".dicom"})
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames != 1:
            raise ImageReadError(f"{path}: expected one picture, found {frames} frames")
        values = _dicom_values(dataset)
        spacing = _dicom_spacing(dataset)
    except ImageReadError:
        raise
    except Exception as error:
        # pydicom and its decoders raise anything for damaged or compressed pixels
        raise ImageReadError(f"{path}: not a readable DICOM image ({error})") from error
    return values, spacing


def _dicom_values(dataset: Any) -> NDArray[np.float32]:
    """Return the (H, W) or (H, W, 3) pixels in [0, 1], bright for strong echoes."""
    import pydicom

    values = dataset.pixel_array
    photometric = str(dataset.PhotometricInterpretation)
    whitest = np.float32(2.0 ** int(dataset.BitsStored) - 1)
    if photometric == "PALETTE COLOR":
        from pydicom.pixel_data_handlers.util import apply_color_lut

        values = apply_color_lut(values, dataset)
        whitest = np.float32(np.iinfo(values.dtype).max)
    elif photometric in {"YBR_FULL", "YBR_FULL_422"} and int(pydicom.__version__[0]) < 3:
        # pydicom converts it by itself from version 3 on
        from pydicom.pixel_data_handlers.util import convert_color_space

        values = convert_color_space(values, photometric, "RGB")
    scaled = values.astype(np.float32) / whitest
    if photometric == "MONOCHROME1":
        scaled = 1 - scaled
    return np.clip(scaled, 0, 1).astype(np.float32)


def _dicom_spacing(dataset: Any) -> tuple[float, float] | None:
    """Return (row, column) mm from PixelSpacing, else from the first region in centimetres."""
    stated = dataset.get("PixelSpacing")
    if stated is not None and len(stated) == 2 and min(stated) > 0:
        return float(stated[0]), float(stated[1])
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
        if units == (_CENTIMETRES, _CENTIMETRES):
            rows = abs(float(region.PhysicalDeltaY)) * 10
            columns = abs(float(region.PhysicalDeltaX)) * 10
            if rows > 0 and columns > 0:
                return rows, columns
    return None


def _to_grey(values: NDArray[np.float32], path: Path | str) -> NDArray[np.float32]:
    """Luminance by ITU-R 601-2, exact for grey pictures stored as colour."""
    if not np.isfinite(values).all():
        raise ImageReadError(f"{path}: the pixels hold NaN or infinite values")
    if values.ndim == 3:
        first = values[..., 0]
        if np.array_equal(values[..., 1], first) and np.array_equal(values[..., 2], first):
            values = first
        else:
            values = values[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    if min(values.shape) < 2:
        raise ImageReadError(f"{path}: {values.shape[1]}×{values.shape[0]} pixels is no picture")
    return np.ascontiguousarray(np.clip(values, 0, 1), dtype=np.float32)
