"""Images in DICOM files: frames, grey levels, spacing, the region that is ultrasound.

No value of a DICOM file stands in a message or a log: any of them may name a patient. Tags and
codes by PS3.3: C.7.6.3 (image pixel), C.7.6.5 (cine), C.8.5.5 (ultrasound region calibration).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import PredictionWarning
from busi_monai.errors import ImageReadError
from busi_monai.io.dicom_tags import GreyLevels, StatedGrey, largest_region, numbers_of, scale_of
from busi_monai.io.grey_ranges import DEPTHS, GreyRange
from busi_monai.io.image_files import (
    DICOMDIR,
    ImageBytes,
    max_pixels_of,
    opened,
    size_of,
    suffix_of,
)
from busi_monai.io.pixel_scales import PixelScale
from busi_monai.io.untrusted import CountedReads, check_codestream, check_content, check_sequences
from busi_monai.io.video import (
    check_decoder,
    check_dicom_video,
    is_video_syntax,
    read_dicom_video_frame,
)

__all__ = [
    "DICOM_SUFFIXES",
    "NOT_IMAGES",
    "DicomHeader",
    "is_bare_dicom",
    "is_dicom",
    "read_dicom_dataset",
    "read_dicom_frame",
    "read_dicom_header",
    "silent_pydicom",
]

DICOM_SUFFIXES = (".dcm", ".dicom")

NOT_IMAGES = {
    "SEG": "a segmentation",
    "SR": "a structured report",
    "PR": "a presentation state",
    "KO": "a list of key objects",
    "RTSTRUCT": "a set of contours",
}
"""What a DICOM file of a modality holds instead of an image."""

_one_reader = threading.RLock()

_FILES_IN_MEMORY = 16
_levels_by_file: dict[str, GreyLevels] = {}  # guarded by the reader's lock; holds no pixel


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file tells of its images.

    Attributes:
        frames: number of frames, 1 for a still.
        frames_per_second: rate of a cine loop, or ``None`` where none is stated.
        size: (height, width) of a frame in pixels.
        scale: distances of pixels in millimetres, by region.
        region: (top, left, bottom, right) in pixels, the ends excluded, of the largest
            two-dimensional ultrasound region; ``None`` where none is stated or it is the whole.
        warnings: what of the file was not believed.
    """

    frames: int
    frames_per_second: float | None
    size: tuple[int, int]
    scale: PixelScale
    region: tuple[int, int, int, int] | None
    warnings: tuple[PredictionWarning, ...] = ()


def is_dicom(source: Path | ImageBytes, head: bytes) -> bool:
    """Whether a file whose first 132 bytes are given is to be read as DICOM.

    A file on disk may lack the preamble if its name says DICOM; of bytes only the content counts.
    """
    return head[128:132] == b"DICM" or _is_named_dicom(source)


def read_dicom_header(source: Path | ImageBytes) -> DicomHeader:
    """Read what a DICOM file tells of its images, without decoding any.

    Raises:
        ImageReadError: if it is damaged, holds no image, or one that is too large.
    """
    with _reported(source):
        dataset = read_dicom_dataset(source, pixels=False)
        header = _header(dataset, source)
        if is_video_syntax(dataset.file_meta.TransferSyntaxUID):
            check_dicom_video(Path(str(source)))
        return header


def read_dicom_frame(
    source: Path | ImageBytes, frame: int | None = None
) -> tuple[NDArray[np.float32], GreyRange, DicomHeader]:
    """Read one frame, counted from 0; ``None`` for the only one.

    Returns:
        (H, W) or (H, W, 3) pixels in [0, 1], bright for strong echoes, their range, that of all
        frames, and the header.

    Raises:
        ImageReadError: if the file or its compression cannot be read, if there are several frames
            and none is named, or if there is no such frame.
    """
    with _reported(source):
        dataset = read_dicom_dataset(source, pixels=False)
        header = _header(dataset, source)
        if frame is None and header.frames != 1:
            raise ImageReadError(
                f"{source}: a loop of {header.frames} frames; a dataset takes single images: "
                "export the frame as PNG"
            )
        if not 0 <= (frame or 0) < header.frames:
            number = (frame or 0) + 1
            raise ImageReadError(
                f"{source}: there is no frame {number} among {header.frames}, counted from 1"
            )
        if is_video_syntax(dataset.file_meta.TransferSyntaxUID):
            values = read_dicom_video_frame(Path(str(source)), frame or 0, header.frames)
            if values.shape[:2] != header.size:
                raise ImageReadError(
                    f"{source}: expected frames of {header.size[1]}×{header.size[0]} pixels, as it "
                    f"states, found {values.shape[1]}×{values.shape[0]}"
                )
            return values, GreyRange(0, 1), header
        stored = _stored_values(source, dataset, frame or 0, header.frames)
        return *_scaled(stored, source, dataset, header), header


def read_dicom_dataset(
    source: Path | ImageBytes, *, pixels: bool = True, tags: Sequence[str] | None = None
) -> Any:
    """Return a file as a ``pydicom`` dataset; call it within ``silent_pydicom``.

    Args:
        source: a DICOM file.
        pixels: read its pixels too.
        tags: keywords of the only elements to read; by default all.

    Raises:
        ImageReadError: for untrusted content that would be unpacked without a limit.
        Exception: whatever pydicom raises for a damaged file.
    """
    import pydicom

    if isinstance(source, ImageBytes):
        check_content(source)
    with CountedReads(source) if isinstance(source, ImageBytes) else opened(source) as stream:
        dataset = pydicom.dcmread(
            stream,
            force=_is_named_dicom(source),
            stop_before_pixels=not pixels,
            specific_tags=None if tags is None else list(tags),
        )
    if isinstance(source, ImageBytes):
        check_sequences(dataset, source)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _uncompressed_syntax(dataset)
    return dataset


@contextlib.contextmanager
def silent_pydicom() -> Iterator[None]:
    """Keep pydicom and highdicom from warning and logging, as they tell values of the file.

    One thread at a time, as what is warned of is decided for the whole process.
    """
    logger = logging.getLogger("pydicom")
    with _one_reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


@contextlib.contextmanager
def _reported(source: Path | ImageBytes) -> Iterator[None]:
    try:
        with silent_pydicom():
            yield
    except ImageReadError:
        raise
    except Exception as error:
        # pydicom and its decoders raise anything for damaged pixels, with values in their words
        raise ImageReadError(
            f"{source}: not a readable DICOM image ({type(error).__name__})"
        ) from None


def _is_named_dicom(source: Path | ImageBytes) -> bool:
    return isinstance(source, Path) and source.name.lower().endswith(DICOM_SUFFIXES)


def _uncompressed_syntax(dataset: Any) -> str:
    """Return the transfer syntax of a file that came without the part that states it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = getattr(dataset, "original_encoding", (True, True))
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _header(dataset: Any, source: Path | ImageBytes) -> DicomHeader:
    kind = NOT_IMAGES.get(str(dataset.get("Modality")))
    if kind is not None or "Rows" not in dataset:
        raise ImageReadError(f"{source}: not a readable DICOM image; it holds {kind or 'no image'}")
    frames = int(dataset.get("NumberOfFrames") or 1)
    height, width = int(dataset.Rows), int(dataset.Columns)
    most = max_pixels_of(source)
    if frames < 1 or not 0 < height * width <= most:
        raise ImageReadError(
            f"{source}: {frames} frames of {width}×{height} pixels; expected at least one, of at "
            f"most {most:,} pixels"
        )
    if isinstance(source, ImageBytes) and height * width * frames > most:
        raise ImageReadError(
            f"{source}: {height * width * frames:,} pixels in {frames} frames, more than {most:,}"
        )
    if frames > size_of(source):
        raise ImageReadError(f"{source}: cut short; {frames} frames are stated")
    check_decoder(dataset.file_meta.TransferSyntaxUID, source)
    scale, warnings_of_scale = scale_of(dataset, (height, width))
    return DicomHeader(
        frames=frames,
        frames_per_second=_frames_per_second(dataset) if frames > 1 else None,
        size=(height, width),
        scale=scale,
        warnings=warnings_of_scale,
        region=largest_region(dataset, (height, width)),
    )


def _stored_values(
    source: Path | ImageBytes, dataset: Any, frame: int, frames: int
) -> NDArray[np.generic]:
    """Return (H, W) or (H, W, 3) of one frame, YBR brought to RGB."""
    if isinstance(source, ImageBytes) and "SegmentedRedPaletteColorLookupTableData" in dataset:
        raise ImageReadError(f"{source}: segmented palettes are not taken; save it as RGB")
    try:
        from pydicom.pixels import pixel_array
    except ImportError:  # pydicom 2, which decodes all frames and leaves YBR as it is
        return _stored_values_of_pydicom_2(source, frame, frames)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_deflated or not _has_preamble(source):
        return np.asarray(pixel_array(read_dicom_dataset(source), index=frame))
    if syntax.is_encapsulated and isinstance(source, ImageBytes):
        check_codestream(read_dicom_dataset(source), frame, frames, str(source))
    with opened(source) as stream:  # reads no other frame
        return np.asarray(pixel_array(stream, index=frame))


def is_bare_dicom(path: Path) -> bool:
    """Whether a file without suffix is DICOM, by its preamble. A DICOMDIR is not meant."""
    if suffix_of(path) or path.name.upper() == DICOMDIR or not path.is_file():
        return False
    with contextlib.suppress(OSError):  # it may not be read
        return _has_preamble(path)
    return False


def _has_preamble(source: Path | ImageBytes) -> bool:
    with opened(source) as stream:
        return stream.read(132)[128:] == b"DICM"


def _stored_values_of_pydicom_2(
    source: Path | ImageBytes, frame: int, frames: int
) -> NDArray[np.generic]:
    from pydicom.pixel_data_handlers.util import convert_color_space

    dataset = read_dicom_dataset(source)
    values = dataset.pixel_array
    photometric = str(dataset.PhotometricInterpretation)
    if photometric in {"YBR_FULL", "YBR_FULL_422"}:
        values = convert_color_space(values, photometric, "RGB")
    return np.asarray(values[frame] if frames > 1 else values)


def _scaled(
    values: NDArray[np.generic], source: Path | ImageBytes, dataset: Any, header: DicomHeader
) -> tuple[NDArray[np.float32], GreyRange]:
    """Bring stored values to [0, 1], through the palette if there is one."""
    if str(dataset.PhotometricInterpretation) == "PALETTE COLOR":
        coloured, whitest = _through_palette(values, dataset)
        found = GreyRange(0, whitest)
        return found.apply(coloured), found
    bits, stated = int(dataset.BitsStored), StatedGrey.of(dataset)
    if header.frames > 1 and (bits > DEPTHS[0] or stated.window is not None):
        levels = _levels_of_file(source, dataset, header.frames, stated)
    else:
        levels = GreyLevels.of([values], stated)
    found = levels.grey_range(bits, stated, str(source))
    warned = (*stated.warnings, *found.warnings)
    return found.apply(values), replace(found, warnings=warned)


def _levels_of_file(
    source: Path | ImageBytes, dataset: Any, frames: int, stated: StatedGrey
) -> GreyLevels:
    """Return the grey levels of all frames, from memory where the file was asked for before."""
    if isinstance(source, ImageBytes):
        key = hashlib.sha256(source.content).hexdigest()
    else:
        status = source.stat()
        key = f"{source.absolute()} {status.st_mtime_ns} {status.st_size}"
    if key not in _levels_by_file:
        values = (_stored_values(source, dataset, number, frames) for number in range(frames))
        found = GreyLevels.of(values, stated)
        while len(_levels_by_file) >= _FILES_IN_MEMORY:
            del _levels_by_file[next(iter(_levels_by_file))]
        _levels_by_file[key] = found
    return _levels_by_file[key]


def _through_palette(
    values: NDArray[np.generic], dataset: Any
) -> tuple[NDArray[np.generic], float]:
    """Return the palette's colours and its whitest value.

    Eight-bit colours may be stored in words of sixteen (C.7.6.3.1.6), whatever is stated.
    """
    try:
        from pydicom.pixels import apply_color_lut
    except ImportError:
        from pydicom.pixel_data_handlers.util import apply_color_lut

    coloured = np.asarray(apply_color_lut(values, dataset))
    tables = [
        np.frombuffer(table[: len(table) // 2 * 2], "<u2")
        for table in (
            bytes(dataset.get(f"{name}PaletteColorLookupTableData") or b"")
            for name in ("Red", "Green", "Blue")
        )
    ]
    words = coloured.dtype == np.uint16 and any(table.max(initial=0) > 255 for table in tables)
    return coloured, 65535 if words or not any(map(len, tables)) else 255


def _frames_per_second(dataset: Any) -> float | None:
    """Return the rate of acquisition, else of display, in frames a second."""
    for times in (numbers_of(dataset, "FrameTime"), numbers_of(dataset, "FrameTimeVector")[1:]):
        known = [value for value in times if value > 0]
        if known:
            return 1000 * len(known) / sum(known)
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        rates = [rate for rate in numbers_of(dataset, name) if rate > 0]
        if rates:
            return rates[0]
    return None
