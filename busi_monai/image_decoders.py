"""Pixel values in [0, 1] from the files of Pillow's formats and of NIfTI."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from busi_monai.codestreams import MOST_SCANS, scan_count
from busi_monai.errors import ImageReadError
from busi_monai.image_files import ImageBytes, max_pixels_of, opened

__all__ = ["decode_nifti", "decode_pillow", "is_nifti", "over_black", "scale_unknown_range"]

STRANGERS_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""Pillow's decoders that may see a stranger's bytes: others call programs, or few look at them."""


_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
_NIFTI_1_LENGTH, _NIFTI_2_LENGTH = 348, 540
_MOST_BEFORE_PIXELS = 1_000_000
_MOST_PIXEL_BYTES = 8  # of a NIfTI file for each pixel that is allowed
_SMALL = 1_000_000  # pixels, as many as tiles may be larger than the picture in any case


def is_nifti(source: Path | ImageBytes, head: bytes) -> bool:
    """Whether a file whose first bytes are given is to be read as NIfTI, by name if on disk."""
    if isinstance(source, Path):
        return source.name.lower().endswith((".nii", ".nii.gz"))
    if head[:2] == b"\x1f\x8b":  # gzip, in which only NIfTI comes
        return True
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def decode_pillow(source: Path | ImageBytes) -> NDArray[np.float32]:
    """Return a picture's (H, W) or (H, W, 3) values in [0, 1], EXIF orientation applied.

    Raises:
        ImageReadError: if it is of no known format, animated, too large, damaged or truncated.
    """
    limit = max_pixels_of(source)
    formats = STRANGERS_FORMATS if isinstance(source, ImageBytes) else None
    try:
        # as a stream: by its name, Pillow maps raw TIFFs and garbles those stored sideways
        with opened(source) as stream, Image.open(stream, formats=formats) as picture:
            if picture.width * picture.height > limit:
                raise ImageReadError(
                    f"{source}: {picture.width}×{picture.height} pixels, more than {limit:,}"
                )
            if isinstance(source, ImageBytes):
                _check_stranger(source, picture)
            if _is_animated(picture):
                raise ImageReadError(
                    f"{source}: expected one picture, found several frames; save one as PNG"
                )
            return _pillow_values(ImageOps.exif_transpose(picture), source)
    except ImageReadError:
        raise
    except UnidentifiedImageError:
        raise ImageReadError(
            f"{source}: not a picture that can be read; expected PNG, JPEG, BMP, TIFF, NIfTI or "
            "DICOM"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"{source}: too many pixels to be a picture: {error}") from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, TypeError and more for damaged files
        raise ImageReadError(f"{source}: damaged or truncated ({error}); copy it again") from error


def _check_stranger(source: ImageBytes, picture: Image.Image) -> None:
    """Refuse what is decoded at much more cost than its number of pixels says."""
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    tile = [int(tags.get(tag) or 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if math.prod(tile) > 0:
        padded = [
            side * math.ceil(whole / side) for side, whole in zip(tile, picture.size, strict=True)
        ]
        if math.prod(padded) > 4 * math.prod(picture.size) + _SMALL:
            raise ImageReadError(
                f"{source}: tiles of {tile[0]}×{tile[1]} pixels in a picture of "
                f"{picture.width}×{picture.height}"
            )
    if picture.format in {"JPEG", "MPO"} and scan_count(source.content) > MOST_SCANS:
        raise ImageReadError(f"{source}: more than {MOST_SCANS} scans in one picture")


def _is_animated(picture: Image.Image) -> bool:
    """Whether there is a second frame; to count them all may take for ever."""
    if picture.format == "MPO":  # a phone's picture with previews of itself
        return False
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _pillow_values(image: Image.Image, source: Path | ImageBytes) -> NDArray[np.float32]:
    mode = image.mode
    if mode == "1":
        return np.asarray(image, dtype=np.float32)
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        return np.clip(values / 65535, 0, 1, dtype=np.float32)
    if mode == "F":
        return scale_unknown_range(np.asarray(image, dtype=np.float32), str(source))
    if mode == "L":
        return np.asarray(image, dtype=np.float32) / np.float32(255)
    has_alpha = mode in {"LA", "PA", "La", "RGBA", "RGBa"} or "transparency" in image.info
    if has_alpha:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / np.float32(255)
        return over_black(rgba)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)


def decode_nifti(
    source: Path | ImageBytes,
) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    """Return (H, W) or (H, W, 3) values in [0, 1], rows first, and the (row, column) mm stated.

    Raises:
        ImageReadError: if it is damaged, too large, or not one 2-D picture.
    """
    try:
        image = _nifti_image(source)
        values = np.squeeze(np.asarray(image.dataobj))
    except ImageReadError:
        raise
    except Exception as error:
        # nibabel raises its own errors, zlib's and EOFError for damaged files
        raise ImageReadError(f"{source}: not a readable NIfTI file ({error})") from error
    if values.dtype.names:  # RGB24 is a structured type
        values = np.stack([values[channel] for channel in values.dtype.names], axis=-1)
    if values.ndim not in {2, 3} or (values.ndim == 3 and values.shape[2] not in {3, 4}):
        raise ImageReadError(f"{source}: expected one 2-D picture, found shape {image.shape}")
    values = np.swapaxes(values, 0, 1)
    spacing = _nifti_spacing(image)
    if values.dtype == np.uint8:
        return over_black(values.astype(np.float32) / np.float32(255)), spacing
    return over_black(scale_unknown_range(values.astype(np.float32), str(source))), spacing


def _nifti_image(source: Path | ImageBytes) -> Any:
    """Return nibabel's image, its pixels not read yet, refused if it states too many."""
    import nibabel

    limit = max_pixels_of(source)
    image = nibabel.load(source) if isinstance(source, Path) else _nifti_of_stranger(source)
    _check_shape(image.shape, limit, source)
    return image


def _nifti_of_stranger(source: ImageBytes) -> Any:
    """Return nibabel's image of no more bytes than its header states, unpacked if need be."""
    import nibabel

    stream: BinaryIO = io.BytesIO(source.content)
    if source.content[:2] == b"\x1f\x8b":
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    head = stream.read(_NIFTI_2_LENGTH)
    kind = nibabel.Nifti2Image if head[4:8] == b"n+2\0" else nibabel.Nifti1Image
    length = _NIFTI_2_LENGTH if kind is nibabel.Nifti2Image else _NIFTI_1_LENGTH
    header = kind.header_class(head[:length])
    shape = header.get_data_shape()
    _check_shape(shape, source.max_pixels, source)
    offset = min(int(header.get_data_offset()), _MOST_BEFORE_PIXELS)
    bytes_of_pixels = math.prod(shape) * header.get_data_dtype().itemsize
    if bytes_of_pixels > _MOST_PIXEL_BYTES * source.max_pixels:
        raise ImageReadError(f"{source}: {bytes_of_pixels:,} bytes of pixels; save it as 8 bits")
    stated = offset + bytes_of_pixels
    return kind.from_bytes(head + stream.read(max(stated - len(head), 0)))


def _check_shape(shape: tuple[int, ...], limit: int, source: Path | ImageBytes) -> None:
    sides = [int(side) for side in shape if side != 1]
    if math.prod(sides[:2]) > limit or math.prod(sides) > 4 * limit:
        raise ImageReadError(f"{source}: shape {shape}, more than {limit:,} pixels")


def _nifti_spacing(image: Any) -> tuple[float, float] | None:
    """Return (row, column) mm; 1 by 1 is what writers put where no spacing is known."""
    to_mm = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
    zooms = zip(image.header.get_zooms(), image.shape, strict=True)
    columns, rows = [float(zoom) for zoom, side in zooms if side != 1][:2]
    if (columns, rows) == (1.0, 1.0) or not (columns > 0 and rows > 0):
        return None
    return rows * to_mm, columns * to_mm


def over_black(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return RGB for RGBA: what is transparent is black; anything else is returned as it is."""
    if values.ndim == 3 and values.shape[2] == 4:
        return values[..., :3] * values[..., 3:]
    return values


def scale_unknown_range(values: NDArray[np.float32], source: str) -> NDArray[np.float32]:
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
