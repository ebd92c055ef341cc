"""Reading ultrasound images and masks from files, and writing masks.

Every image becomes one grey channel (H, W) of float32 in [0, 1], EXIF orientation applied, as
found in size. Formats: PNG, JPEG, BMP, TIFF and what else Pillow reads; NIfTI by nibabel; DICOM by
pydicom; frames of videos by PyAV. NIfTI images are taken in index order (first axis = columns,
second = rows).
Contents in memory (uploads) are read by the same code, but only as PNG, JPEG, BMP, TIFF, NIfTI or
DICOM, and by what they hold, not by their name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import PredictionWarning
from busi_monai.errors import ImageReadError
from busi_monai.files import atomic_file
from busi_monai.io.dicom_images import DicomHeader, is_dicom, read_dicom_frame, read_dicom_header
from busi_monai.io.grey_ranges import GreyRange, scale_grey
from busi_monai.io.image_decoders import (
    decode_nifti,
    decode_nifti_mask,
    decode_pillow,
    decode_pillow_mask,
    is_nifti,
)
from busi_monai.io.image_files import (
    IMAGE_SUFFIXES,
    ImageBytes,
    ImageSource,
    head_of,
    is_image_file,
)
from busi_monai.io.mask_values import lesion_pixels
from busi_monai.io.pixel_scales import NO_SPACING, PixelScale, Spacing
from busi_monai.io.video import is_video, read_video_frame, read_video_header

__all__ = [
    "IMAGE_SUFFIXES",
    "Frames",
    "ImageFile",
    "encode_png",
    "file_header",
    "frames_of",
    "image_from_array",
    "is_image_file",
    "load_image",
    "mask_sha256",
    "pixel_sha256",
    "read_image",
    "read_mask",
    "write_mask",
    "write_png",
]

_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3)
_HEAD_LENGTH = 544  # what tells DICOM, NIfTI-1 and NIfTI-2 from the rest


@dataclass(frozen=True)
class LoadedImage:
    """One ultrasound image.

    Attributes:
        pixels: (H, W) float32 in [0, 1].
        scale: distances of pixels in millimetres that the file states, in the whole image's
            rows and columns.
        has_colour: whether the file's colour channels differ anywhere.
        canvas: (top, left, height, width) in pixels if only a part of the file's image was read:
            where the part begins and how large the whole is. ``None`` for the whole.
        warnings: what was decided on reading that the file does not state.
        hash_white: the 16-bit integer that a grey of 1 counts as in ``sha256``.
    """

    pixels: NDArray[np.float32]
    scale: PixelScale = NO_SPACING
    has_colour: bool = False
    canvas: tuple[int, int, int, int] | None = None
    warnings: tuple[PredictionWarning, ...] = ()
    hash_white: int = 65535

    @property
    def sha256(self) -> str:
        """Identity of the pixels; that of 16-bit integers whatever depth was decided for them."""
        return pixel_sha256(self.pixels, self.hash_white)

    @property
    def spacing_mm(self) -> Spacing | None:
        """The only (row, column) scale that is stated, ``None`` if there are none or several."""
        return self.scale.common_mm


@dataclass(frozen=True)
class ImageFile:
    """One image of a file that may hold several, not read yet.

    Attributes:
        source: path of the file, or its content.
        frame: its number, counted from 0; ``None`` for the only image.
        crop_to_region: read only the ultrasound region that a DICOM file states.
    """

    source: Path | ImageBytes
    frame: int | None = None
    crop_to_region: bool = False

    def __str__(self) -> str:
        """Return the file's name, with the frame counted from 1 as viewers do."""
        return str(self.source) if self.frame is None else f"{self.source} frame {self.frame + 1}"


@dataclass(frozen=True)
class Frames:
    """The images of a file: one, or each frame of a loop in order, none read yet, and its rate."""

    images: tuple[ImageFile, ...]
    frames_per_second: float | None = None


def frames_of(source: ImageSource, *, crop_to_region: bool = False) -> Frames:
    """Return the images of a file: several for a video or a multi-frame DICOM file, else one.

    Raises:
        ImageReadError: if a video's or a DICOM file's header cannot be read, or what decodes it is
            not installed; other formats are not opened.
    """
    file = _file(source)
    header = read_video_header(file) if is_video(file) else file_header(file)
    if header is None or header.frames == 1:
        return Frames((ImageFile(file, None, crop_to_region),))
    numbers = range(header.frames)
    return Frames(
        tuple(ImageFile(file, number, crop_to_region) for number in numbers),
        header.frames_per_second,
    )


def file_header(source: ImageSource) -> DicomHeader | None:
    """Return what a DICOM file tells of its images; ``None`` for the other formats.

    Raises:
        ImageReadError: if the header cannot be read; other formats are not opened.
    """
    file = _file(source)
    return read_dicom_header(file) if is_dicom(file, head_of(file, _HEAD_LENGTH)) else None


def read_image(source: ImageSource | ImageFile) -> LoadedImage:
    """Read one ultrasound image.

    Args:
        source: path of a file, its content, or one image of a file that holds several.

    Raises:
        ImageReadError: if the file is missing, empty, truncated, of no known format, animated, or
            of more than ``MAX_PIXELS`` pixels; the message names file, reason and remedy.
    """
    wanted = source if isinstance(source, ImageFile) else ImageFile(_file(source))
    return _in_grey(_read_values(wanted), wanted.source)


def load_image(source: ImageSource | ImageFile | LoadedImage | NDArray[Any]) -> LoadedImage:
    """Return an image wherever it is: in a file, in memory, read already, or as pixels.

    Raises:
        ImageReadError: as for ``read_image`` and ``image_from_array``.
    """
    if isinstance(source, LoadedImage):
        return source
    if isinstance(source, (str, Path, ImageBytes, ImageFile)):
        return read_image(source)
    return image_from_array(np.asarray(source))


def image_from_array(values: NDArray[np.generic]) -> LoadedImage:
    """Return pixels that are already in memory as ``read_image`` would from a file.

    Args:
        values: (H, W), or (H, W, C) with 1 grey, 3 RGB or 4 RGBA channels, of any type; see
            ``decide_grey_range`` for which value becomes white.

    Raises:
        ImageReadError: for another shape, an image of less than 2×2 pixels, NaN or infinity.
    """
    values = np.asarray(values)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in {3, 4}):
        raise ImageReadError(
            f"array: expected shape (H, W) or (H, W, 1, 3 or 4), found {values.shape}"
        )
    return _in_grey(_as_found(*scale_grey(values)), "array")


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read one mask file of any mode as (H, W) bool, ``True`` on the lesion.

    ``lesion_pixels`` says what the values mean. In colour files the brightest channel counts
    (BUS-UCLM draws in pure red and green), of a palette that numbers labels the index, and
    transparent is background.

    Raises:
        ImageReadError: as for ``read_image``, and if the values are no mask's.
    """
    path = Path(path)
    values, lossy = _mask_values(path)
    try:
        return lesion_pixels(values, lossy=lossy)
    except ValueError as error:
        raise ImageReadError(f"{path}: the mask {error}", kind="mask_values") from error


def write_png(path: str | Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W) grey or (H, W, 3) RGB uint8 pixels as PNG, atomically."""
    with atomic_file(path) as partial:
        partial.write_bytes(encode_png(pixels))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA uint8 pixels as PNG.

    By OpenCV, which lets other threads run meanwhile; Pillow does not.
    """
    # OpenCV's colours begin with blue
    values = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    _, content = cv2.imencode(".png", np.ascontiguousarray(values), _PNG)
    return content.tobytes()


def write_mask(path: str | Path, mask: NDArray[np.generic]) -> None:
    """Write an (H, W) mask (non-zero = lesion) as 8-bit PNG of values 0 and 255, atomically."""
    write_png(path, np.where(np.asarray(mask) > 0, np.uint8(255), np.uint8(0)))


def pixel_sha256(pixels: NDArray[np.float32], white: int = 65535) -> str:
    """Return the SHA-256 of an image's grey pixels, the same in whatever format they are stored.

    Args:
        pixels: (H, W) in [0, 1], as from ``read_image``; hashed with their shape, as 16 bits.
        white: what a grey of 1 is as 16 bits. With ``LoadedImage.hash_white``, integers of 16 bits
            are hashed as they are stored, so that how deep they are found to be does not matter.
    """
    return _sha256(np.round(pixels * white).astype("<u2"))


def mask_sha256(mask: NDArray[np.generic]) -> str:
    """Return the SHA-256 of a lesion mask, the same in whatever format it is stored.

    Args:
        mask: (H, W), non-zero = lesion; hashed with its shape, a byte of 0 or 1 for each pixel.

    Examples:
        >>> mask = np.array([[0, 255], [255, 255]], dtype=np.uint8)
        >>> mask_sha256(mask) == mask_sha256(mask > 0) != mask_sha256(mask == 0)
        True
    """
    return _sha256((np.asarray(mask) > 0).astype(np.uint8))


def _sha256(values: NDArray[Any]) -> str:
    shape = f"{values.shape[0]}x{values.shape[1]}"
    return hashlib.sha256(shape.encode() + values.tobytes()).hexdigest()


def _file(source: ImageSource) -> Path | ImageBytes:
    return source if isinstance(source, ImageBytes) else Path(source)


def _read_values(wanted: ImageFile) -> LoadedImage:
    """Return an image whose pixels are still (H, W) or (H, W, C)."""
    file = wanted.source
    head = head_of(file, _HEAD_LENGTH)
    if is_dicom(file, head):
        values, found, header = read_dicom_frame(file, wanted.frame)
        read = _as_found(values, found, header.scale, header.warnings)
        if not wanted.crop_to_region or header.region is None:
            return read
        top, left, bottom, right = header.region
        canvas = (top, left, *header.size)
        return replace(read, pixels=values[top:bottom, left:right], canvas=canvas)
    if is_video(file):
        return _as_found(read_video_frame(file, wanted.frame), GreyRange(0, 1))
    if wanted.frame is not None:
        raise ImageReadError(
            f"{file}: only videos and DICOM files have frames to be read by number"
        )
    if is_nifti(file, head):
        values, found, spacing = decode_nifti(file)
        return _as_found(values, found, PixelScale(spacing))
    return _as_found(*decode_pillow(file))


def _as_found(
    values: NDArray[np.float32],
    found: GreyRange,
    scale: PixelScale = NO_SPACING,
    further: tuple[PredictionWarning, ...] = (),
) -> LoadedImage:
    return LoadedImage(
        values, scale, warnings=(*further, *found.warnings), hash_white=found.hash_white
    )


def _mask_values(path: Path) -> tuple[NDArray[Any], bool]:
    """Return a mask's (H, W) values as stored, and whether the file's coding changes them."""
    head = head_of(path, _HEAD_LENGTH)
    if is_dicom(path, head):
        values = read_dicom_frame(path, None)[0]
        return values.max(axis=2) if values.ndim == 3 else values, False
    if is_nifti(path, head):
        return decode_nifti_mask(path), False
    return decode_pillow_mask(path)


def _in_grey(read: LoadedImage, source: Path | ImageBytes | str) -> LoadedImage:
    """Return luminance by ITU-R 601-2, exact for grey images stored as colour."""
    values = read.pixels
    if not np.isfinite(values).all():
        raise ImageReadError(f"{source}: the pixels hold NaN or infinite values")
    has_colour = values.ndim == 3 and bool(np.any(values != values[..., :1]))
    if values.ndim == 3:
        values = _luminance(values) if has_colour else values[..., 0]
    if min(values.shape) < 2:
        raise ImageReadError(f"{source}: {values.shape[1]}×{values.shape[0]} pixels is no image")
    grey = np.ascontiguousarray(np.clip(values, 0, 1), dtype=np.float32)
    return replace(read, pixels=grey, has_colour=has_colour)


def _luminance(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (H, W) grey values of (H, W, 3 or 4) colours, the same bits on every processor.

    A matrix product would leave the order and the rounding of the sum to the processor, and with
    them ``pixel_sha256`` and each datalist that holds it. Here every channel is added by one fused
    step: product and sum in float64, rounded once.
    """
    red, green, blue = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    grey: NDArray[np.float32] = values[..., 0] * red
    for channel, weight in ((1, green), (2, blue)):
        grey = (values[..., channel].astype(np.float64) * weight + grey).astype(np.float32)
    return grey
