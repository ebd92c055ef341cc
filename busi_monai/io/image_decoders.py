"""Pixel values in [0, 1] from the files of Pillow's formats and of NIfTI."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from busi_monai.errors import ImageReadError
from busi_monai.io.grey_ranges import GreyRange, scale_grey
from busi_monai.io.image_files import ImageBytes, max_pixels_of, opened
from busi_monai.io.pixel_scales import Spacing, believed_spacing
from busi_monai.io.untrusted import check_scans

__all__ = ["decode_nifti", "decode_nifti_mask", "decode_pillow", "decode_pillow_mask", "is_nifti"]

_Decoded = TypeVar("_Decoded")

STRANGERS_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""Pillow's decoders that may see untrusted bytes: others call programs, or few look at them."""


_JPEG = {"JPEG", "MPO"}
_TILE_WIDTH, _TILE_LENGTH, _BITS_PER_SAMPLE, _PHOTOMETRIC = 322, 323, 258, 262  # TIFF tags
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 100  # of a PNG file before its pixels that are looked through
_NIFTI_1_LENGTH, _NIFTI_2_LENGTH = 348, 540
_MAX_BEFORE_PIXELS = 1_000_000
_MAX_PIXEL_BYTES = 8  # of a NIfTI file for each pixel that is allowed
_SMALL = 1_000_000  # pixels, as many as tiles may be larger than the image in any case


def is_nifti(source: Path | ImageBytes, head: bytes) -> bool:
    """Whether a file whose first bytes are given is to be read as NIfTI, by name if on disk."""
    if isinstance(source, Path):
        return source.name.lower().endswith((".nii", ".nii.gz"))
    if head[:2] == b"\x1f\x8b":  # gzip, in which only NIfTI comes
        return True
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def decode_pillow(source: Path | ImageBytes) -> tuple[NDArray[np.float32], GreyRange]:
    """Return an image's (H, W) or (H, W, 3) values in [0, 1] and their range.

    EXIF orientation is applied.

    Raises:
        ImageReadError: if it is of no known format, animated, too large, damaged or truncated.
    """
    return _opened_upright(source, lambda image, stored: _pillow_values(image, stored, source))


def decode_pillow_mask(source: Path) -> tuple[NDArray[Any], bool]:
    """Return a mask's (H, W) values as they stand in the file, and whether its coding changes them.

    Of colours the brightest channel counts; transparent is 0. A palette whose first colour is
    black numbers labels, so that its indices are the values; a grey one, or another, only stands
    for its colours.

    Raises:
        ImageReadError: as for ``decode_pillow``.
    """
    return _opened_upright(source, lambda image, stored: (_stored_values(image), stored.lossy))


def _opened_upright(
    source: Path | ImageBytes, values_of: Callable[[Image.Image, _StoredSamples], _Decoded]
) -> _Decoded:
    """Return what is made of an image that is turned upright, told what the file states."""
    limit = max_pixels_of(source)
    formats = STRANGERS_FORMATS if isinstance(source, ImageBytes) else None
    try:
        # as a stream: by its name, Pillow maps raw TIFFs and garbles those stored sideways
        with opened(source) as stream, Image.open(stream, formats=formats) as loaded:
            if loaded.width * loaded.height > limit:
                raise ImageReadError(
                    f"{source}: {loaded.width}×{loaded.height} pixels, more than {limit:,}"
                )
            if isinstance(source, ImageBytes):
                _check_untrusted(source, loaded)
            if _is_animated(loaded):
                raise ImageReadError(
                    f"{source}: expected one image, found several frames; save one as PNG"
                )
            stored = _StoredSamples.of(loaded, stream)
            return values_of(ImageOps.exif_transpose(loaded), stored)
    except ImageReadError:
        raise
    except UnidentifiedImageError:
        raise ImageReadError(
            f"{source}: not an image that can be read; expected PNG, JPEG, BMP, TIFF, NIfTI or "
            "DICOM"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"{source}: too many pixels to be an image: {error}") from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, TypeError and more for damaged files
        raise ImageReadError(f"{source}: damaged or truncated ({error}); copy it again") from error


def _check_untrusted(source: ImageBytes, loaded: Image.Image) -> None:
    """Refuse what is decoded at much more cost than its number of pixels says."""
    tags: Mapping[int, Any] = getattr(loaded, "tag_v2", {})
    tile = [int(tags.get(tag) or 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if math.prod(tile) > 0:
        padded = [
            side * math.ceil(whole / side) for side, whole in zip(tile, loaded.size, strict=True)
        ]
        if math.prod(padded) > 4 * math.prod(loaded.size) + _SMALL:
            raise ImageReadError(
                f"{source}: tiles of {tile[0]}×{tile[1]} pixels in an image of "
                f"{loaded.width}×{loaded.height}"
            )
    if loaded.format in _JPEG:
        check_scans(source.content, source)


def _is_animated(loaded: Image.Image) -> bool:
    """Whether there is a second frame; to count them all may take for ever."""
    if loaded.format == "MPO":  # a phone's image with previews of itself
        return False
    try:
        loaded.seek(1)
    except EOFError:
        return False
    return True


@dataclass(frozen=True)
class _StoredSamples:
    """What a file states of its samples."""

    bits: int | None = None  # where Pillow's mode does not tell them
    significant: int | None = None  # how many of these are used
    white_is_zero: bool = False  # and Pillow leaves it so
    lossy: bool = False  # changed by JPEG

    @classmethod
    def of(cls, loaded: Image.Image, stream: BinaryIO) -> _StoredSamples:
        """Read it from an image that was opened from a stream."""
        if loaded.format == "PNG":
            return cls(*_png_bits(stream))
        if loaded.format == "PPM" and loaded.mode == "I":
            return cls(16, 16)  # Pillow has brought its greatest value to 65535
        tags: Mapping[int, Any] = getattr(loaded, "tag_v2", {})
        bits = tags.get(_BITS_PER_SAMPLE)
        return cls(
            bits=bits[0] if isinstance(bits, tuple) else bits,
            white_is_zero=tags.get(_PHOTOMETRIC) == 0 and loaded.mode[0] in "IF",
            lossy=loaded.format in _JPEG or loaded.info.get("compression") == "jpeg",
        )


def _png_bits(stream: BinaryIO) -> tuple[int | None, int | None]:
    """Return bit depth and significant bits (sBIT) of a PNG file's first channel.

    A writer should spread fewer significant bits over the whole depth (PNG 12.4); those who write
    them as they are say how many there are by the same chunk.
    """
    place = stream.tell()
    stream.seek(len(_PNG_SIGNATURE))
    depth = significant = None
    for _ in range(_MAX_CHUNKS):
        head = stream.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IDAT":
            break
        if kind == b"IHDR":
            depth = stream.read(length)[8]
            length = 0
        elif kind == b"sBIT":
            significant = stream.read(1)[0]
            length -= 1
        stream.seek(length + 4, io.SEEK_CUR)
    stream.seek(place)
    return depth, significant


def _pillow_values(
    image: Image.Image, stored: _StoredSamples, source: Path | ImageBytes
) -> tuple[NDArray[np.float32], GreyRange]:
    mode = image.mode
    if mode in {"1", "L"}:
        return scale_grey(np.asarray(image), source=str(source))
    if mode[0] in "IF":
        values = np.asarray(image)
        if mode != "F" and stored.bits and stored.bits <= 16 and values.min() >= 0:
            values = values.astype(np.uint16)
        return scale_grey(
            values,
            bits=stored.bits,
            significant=stored.significant,
            white_is_zero=stored.white_is_zero,
            source=str(source),
        )
    has_alpha = mode in {"LA", "PA", "La", "RGBA", "RGBa"} or "transparency" in image.info
    values = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    if stored.bits == 16:  # Pillow keeps the upper half of each channel
        values = values * np.uint16(257)
    return scale_grey(values, source=str(source))


def _stored_values(image: Image.Image) -> NDArray[Any]:
    if image.mode in {"1", "L", "F"} or image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode == "P" and _numbers_labels(image):
        indices = np.asarray(image)
        if "transparency" in image.info:
            indices = np.where(np.asarray(image.convert("RGBA"))[..., 3] > 0, indices, 0)
        return indices
    has_alpha = image.has_transparency_data
    return _brightest(np.asarray(image.convert("RGBA" if has_alpha else "RGB")))


def _numbers_labels(image: Image.Image) -> bool:
    """Whether the indices of an image with palette are labels, not places of a grey value."""
    palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    colours = palette[used[used < len(palette)]]
    is_grey = bool((colours == colours[:, :1]).all())
    tells_apart = len(np.unique(colours, axis=0)) == len(used)
    return not palette[0].any() and not (is_grey and tells_apart)


def _brightest(values: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W) 8-bit values of (H, W, 3 or 4) ones: the brightest channel over black."""
    brightest: NDArray[Any] = values[..., :3].max(axis=2)
    if values.shape[2] == 4:
        opacity = values[..., 3].astype(np.float32) / np.float32(255)
        brightest = np.round(brightest * opacity).astype(np.uint8)
    return brightest


def decode_nifti(
    source: Path | ImageBytes,
) -> tuple[NDArray[np.float32], GreyRange, Spacing | None]:
    """Return (H, W) or (H, W, 3) values in [0, 1], their range, and the (row, column) mm stated.

    Raises:
        ImageReadError: if it is damaged, too large, or not one 2-D image.
    """
    values, spacing = _nifti_values(source)
    return *scale_grey(values, source=str(source)), spacing


def decode_nifti_mask(source: Path) -> NDArray[Any]:
    """Return a mask's (H, W) values as they stand in the file; of colours the brightest channel.

    Raises:
        ImageReadError: as for ``decode_nifti``.
    """
    values, _ = _nifti_values(source)
    return _brightest(values) if values.ndim == 3 else values


def _nifti_values(
    source: Path | ImageBytes,
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """Return (H, W) or (H, W, C) values as stored, rows first, and the (row, column) mm stated."""
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
        raise ImageReadError(f"{source}: expected one 2-D image, found shape {image.shape}")
    return np.swapaxes(values, 0, 1), _nifti_spacing(image)


def _nifti_image(source: Path | ImageBytes) -> Any:
    """Return nibabel's image, its pixels not read yet, refused if it states too many."""
    import nibabel

    limit = max_pixels_of(source)
    image = nibabel.load(source) if isinstance(source, Path) else _untrusted_nifti(source)
    _check_shape(image.shape, limit, source)
    return image


def _untrusted_nifti(source: ImageBytes) -> Any:
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
    offset = min(int(header.get_data_offset()), _MAX_BEFORE_PIXELS)
    bytes_of_pixels = math.prod(shape) * header.get_data_dtype().itemsize
    if bytes_of_pixels > _MAX_PIXEL_BYTES * source.max_pixels:
        raise ImageReadError(f"{source}: {bytes_of_pixels:,} bytes of pixels; save it as 8 bits")
    stated = offset + bytes_of_pixels
    return kind.from_bytes(head + stream.read(max(stated - len(head), 0)))


def _check_shape(shape: tuple[int, ...], limit: int, source: Path | ImageBytes) -> None:
    sides = [int(side) for side in shape if side != 1]
    if math.prod(sides[:2]) > limit or math.prod(sides) > 4 * limit:
        raise ImageReadError(f"{source}: shape {shape}, more than {limit:,} pixels")


def _nifti_spacing(image: Any) -> Spacing | None:
    """Return (row, column) mm; 1 by 1 is what writers put where no spacing is known."""
    to_mm = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
    zooms = zip(image.header.get_zooms(), image.shape, strict=True)
    columns, rows = [float(zoom) for zoom, side in zooms if side != 1][:2]
    if (columns, rows) == (1.0, 1.0):
        return None
    return believed_spacing(rows * to_mm, columns * to_mm)
