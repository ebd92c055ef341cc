"""Pictures in DICOM files: frames, grey levels, spacing, the region that is ultrasound.

No value of a DICOM file stands in a message or a log: any of them may name a patient. Tags and
codes by PS3.3: C.7.6.3 (image pixel), C.7.6.5 (cine), C.8.5.5 (ultrasound region calibration).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.errors import ImageReadError
from busi_monai.image_files import ImageBytes, max_pixels_of, opened

__all__ = [
    "NOT_PICTURES",
    "SUFFIXES",
    "DicomHeader",
    "is_dicom",
    "read_dicom_frame",
    "read_dicom_header",
]

SUFFIXES = (".dcm", ".dicom")

# ultrasound region calibration: two-dimensional pictures, lengths in centimetres
_TWO_DIMENSIONAL = 1
_CENTIMETRES = 3

NOT_PICTURES = {
    "SEG": "a segmentation",
    "SR": "a structured report",
    "PR": "a presentation state",
    "KO": "a list of key objects",
    "RTSTRUCT": "a set of contours",
}


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file tells of its pictures.

    Attributes:
        frames: number of frames, 1 for a still.
        frames_per_second: rate of a cine loop, or ``None`` where none is stated.
        size: (height, width) of a frame in pixels.
        spacing_mm: (row, column) distance of pixels in millimetres, or ``None``.
        region: (top, left, bottom, right) in pixels, the ends excluded, of the largest
            two-dimensional ultrasound region; ``None`` where none is stated or it is the whole.
    """

    frames: int
    frames_per_second: float | None
    size: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    region: tuple[int, int, int, int] | None


def is_dicom(source: Path | ImageBytes, head: bytes) -> bool:
    """Whether a file whose first 132 bytes are given is to be read as DICOM.

    A file on disk may lack the preamble if its name says DICOM; of bytes only the content counts.
    """
    named = isinstance(source, Path) and source.name.lower().endswith(SUFFIXES)
    return head[128:132] == b"DICM" or named


def read_dicom_header(source: Path | ImageBytes) -> DicomHeader:
    """Read what a DICOM file tells of its pictures, without decoding any.

    Raises:
        ImageReadError: if it is damaged, holds no picture, or one that is too large.
    """
    with _reported(source):
        return _header(_dataset(source, pixels=False), source)


def read_dicom_frame(
    source: Path | ImageBytes, frame: int | None = None
) -> tuple[NDArray[np.float32], DicomHeader]:
    """Read one frame.

    Args:
        source: a DICOM file.
        frame: its number, counted from 0; ``None`` for the only one.

    Returns:
        (H, W) or (H, W, 3) pixels in [0, 1], bright for strong echoes, and the header.

    Raises:
        ImageReadError: if the file or its compression cannot be read, if there are several frames
            and none is named, or if there is no such frame.
    """
    with _reported(source):
        dataset = _dataset(source)
        header = _header(dataset, source)
        if frame is None and header.frames != 1:
            raise ImageReadError(
                f"{source}: expected one picture, found {header.frames} frames; say which"
            )
        if not 0 <= (frame or 0) < header.frames:
            raise ImageReadError(f"{source}: there is no frame {frame}; it has {header.frames}")
        return _values(dataset, frame or 0, header.frames), header


@contextmanager
def _reported(source: Path | ImageBytes) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's tell the values that they complain of
            yield
    except ImageReadError:
        raise
    except Exception as error:
        # pydicom and its decoders raise anything for damaged pixels, with values in their words
        raise ImageReadError(
            f"{source}: not a readable DICOM image ({type(error).__name__})"
        ) from None


def _dataset(source: Path | ImageBytes, *, pixels: bool = True) -> Any:
    import pydicom

    named = isinstance(source, Path) and source.name.lower().endswith(SUFFIXES)
    with opened(source) as stream:
        return pydicom.dcmread(stream, force=named, stop_before_pixels=not pixels)


def _header(dataset: Any, source: Path | ImageBytes) -> DicomHeader:
    kind = NOT_PICTURES.get(str(dataset.get("Modality")))
    if kind is not None or "Rows" not in dataset:
        raise ImageReadError(
            f"{source}: not a readable DICOM image; it holds {kind or 'no picture'}"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    height, width = int(dataset.Rows), int(dataset.Columns)
    pixels = height * width * max(frames, 1)
    if frames < 1 or not 0 < height * width <= max_pixels_of(source):
        raise ImageReadError(
            f"{source}: {frames} frames of {width}×{height} pixels; expected at least one, of at "
            f"most {max_pixels_of(source):,} pixels"
        )
    if isinstance(source, ImageBytes) and pixels > source.max_pixels:
        raise ImageReadError(
            f"{source}: {pixels:,} pixels in {frames} frames, more than {source.max_pixels:,}"
        )
    _check_length(dataset, source, frames)
    regions = _regions(dataset)
    return DicomHeader(
        frames=frames,
        frames_per_second=_frames_per_second(dataset),
        size=(height, width),
        spacing_mm=_spacing(dataset, regions),
        region=_largest_region(regions, (height, width)),
    )


def _check_length(dataset: Any, source: Path | ImageBytes, frames: int) -> None:
    """Refuse a compressed file that states more frames than it has bytes for."""
    if "PixelData" in dataset and len(dataset.PixelData) < frames:
        raise ImageReadError(f"{source}: cut short; {frames} frames are stated")


def _values(dataset: Any, frame: int, frames: int) -> NDArray[np.float32]:
    values = _stored_values(dataset, frame, frames)
    photometric = str(dataset.PhotometricInterpretation)
    whitest = np.float32(2.0 ** int(dataset.BitsStored) - 1)
    if photometric == "PALETTE COLOR":
        from pydicom.pixel_data_handlers.util import apply_color_lut

        values = apply_color_lut(values, dataset)
        whitest = np.float32(np.iinfo(values.dtype).max)
    scaled = values.astype(np.float32) / whitest
    if photometric == "MONOCHROME1":
        scaled = 1 - scaled
    return np.clip(scaled, 0, 1).astype(np.float32)


def _stored_values(dataset: Any, frame: int, frames: int) -> NDArray[np.generic]:
    """Return (H, W) or (H, W, 3) of one frame, YBR brought to RGB."""
    try:
        from pydicom.pixels import pixel_array
    except ImportError:  # pydicom 2, which decodes all frames and leaves YBR as it is
        from pydicom.pixel_data_handlers.util import convert_color_space

        values = dataset.pixel_array
        photometric = str(dataset.PhotometricInterpretation)
        if photometric in {"YBR_FULL", "YBR_FULL_422"}:
            values = convert_color_space(values, photometric, "RGB")
        return np.asarray(values[frame] if frames > 1 else values)
    return np.asarray(pixel_array(dataset, index=frame))


def _frames_per_second(dataset: Any) -> float | None:
    """Return the rate of acquisition, else of display, in frames a second."""
    if int(dataset.get("NumberOfFrames") or 1) == 1:
        return None
    times = [float(dataset.get("FrameTime") or 0)]
    times += [float(value) for value in (dataset.get("FrameTimeVector") or [])[1:]]
    known = [value for value in times if value > 0]
    if known:
        return 1000 * len(known) / sum(known)
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = float(dataset.get(name) or 0)
        if rate > 0:
            return rate
    return None


def _regions(dataset: Any) -> list[Any]:
    """Return the two-dimensional ultrasound regions, the largest first."""
    regions = [
        region
        for region in dataset.get("SequenceOfUltrasoundRegions") or []
        if region.get("RegionSpatialFormat", _TWO_DIMENSIONAL) == _TWO_DIMENSIONAL
    ]
    return sorted(regions, key=_region_area, reverse=True)


def _region_area(region: Any) -> int:
    top, left, bottom, right = _bounds(region)
    return max(bottom - top, 0) * max(right - left, 0)


def _bounds(region: Any) -> tuple[int, int, int, int]:
    names = ("MinY0", "MinX0", "MaxY1", "MaxX1")
    top, left, last_row, last_column = (
        int(region.get(f"RegionLocation{name}") or 0) for name in names
    )
    return top, left, last_row + 1, last_column + 1


def _largest_region(regions: list[Any], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    if not regions or "RegionLocationMaxX1" not in regions[0]:
        return None
    top, left, bottom, right = _bounds(regions[0])
    bottom, right = min(bottom, size[0]), min(right, size[1])
    whole = (top, left, bottom, right) == (0, 0, *size)
    too_small = bottom - top < 2 or right - left < 2 or top < 0 or left < 0
    return None if whole or too_small else (top, left, bottom, right)


def _spacing(dataset: Any, regions: list[Any]) -> tuple[float, float] | None:
    """Return (row, column) mm from PixelSpacing, else from the largest region in centimetres."""
    stated = dataset.get("PixelSpacing")
    if stated is not None and len(stated) == 2 and min(stated) > 0:
        return float(stated[0]), float(stated[1])
    for region in regions:
        units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
        if units == (_CENTIMETRES, _CENTIMETRES):
            rows = abs(float(region.PhysicalDeltaY)) * 10
            columns = abs(float(region.PhysicalDeltaX)) * 10
            if rows > 0 and columns > 0:
                return rows, columns
    return None
