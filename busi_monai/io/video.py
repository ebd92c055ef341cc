"""Frames of videos: files of MP4, AVI, MOV and MKV, and the bit streams in DICOM files.

PyAV decodes (extra ``video``). Frames are decoded once, one after another, and only the last of
them are kept, so that a long video costs no more memory than a short one. The luminance of a frame
is its grey image, as it is stored; neither the processor nor a scaler rounds it.
"""

from __future__ import annotations

import shlex
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from busi_monai.errors import ImageReadError
from busi_monai.io.image_files import MAX_PIXELS, ImageBytes, head_of

__all__ = [
    "MAX_FRAMES",
    "VIDEO_SUFFIXES",
    "VideoHeader",
    "check_decoder",
    "check_dicom_video",
    "is_video",
    "is_video_syntax",
    "read_dicom_video_frame",
    "read_video_frame",
    "read_video_header",
]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv")

MAX_FRAMES = 100_000
MAX_KEPT_BYTES = 128 * 2**20
"""Of the frames that were decoded last, which are looked at again for their overlays."""

# containers and bare streams; others, such as playlists, would open further files
_FORMATS = "mov,avi,matroska,mpegts,mpeg,mpegvideo,h264,hevc"
_PLANES_OF_LUMINANCE = ("gray", "yuv4", "yuvj4", "yuva4", "nv12", "nv21")
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE

# PS3.6 A-1; pydicom does not know the last three yet
_VIDEO_SYNTAXES = "1.2.840.10008.1.2.4.10"
_JPEG_XL = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}


@dataclass(frozen=True)
class VideoHeader:
    """What is known of a video when all its frames have been counted; its rate is the mean one."""

    frames: int
    frames_per_second: float | None


def is_video(source: Path | ImageBytes) -> TypeGuard[Path]:
    """Whether a file on disk is called like a video; bytes are never taken for one."""
    return isinstance(source, Path) and source.name.lower().endswith(VIDEO_SUFFIXES)


def is_video_syntax(syntax: str) -> bool:
    """Whether a DICOM transfer syntax is one of MPEG-2, MPEG-4 AVC/H.264 or HEVC/H.265.

    Examples:
        >>> is_video_syntax("1.2.840.10008.1.2.4.102"), is_video_syntax("1.2.840.10008.1.2.4.110")
        (True, False)
    """
    return syntax[: len(_VIDEO_SYNTAXES)] == _VIDEO_SYNTAXES and (
        syntax[len(_VIDEO_SYNTAXES) :].removesuffix(".1") in set("012345678")
    )


def check_decoder(syntax: Any, source: Path | ImageBytes) -> None:
    """Check that images of a DICOM transfer syntax, a ``pydicom`` UID, can be decoded here.

    Raises:
        ImageReadError: naming the transfer syntax and what to do.
    """
    if is_video_syntax(syntax):
        if isinstance(source, ImageBytes):
            raise ImageReadError(f"{source}: a video ({syntax.name}); send single images")
        _check_installed(source, f"a video ({syntax.name})", "")
        return
    try:
        from pydicom.pixels import get_decoder
    except ImportError:  # pydicom 2 tells when it decodes
        return
    try:
        if get_decoder(syntax).is_available:
            return
        remedy = "run pip install 'busi-monai[dicom]'"
    except NotImplementedError:
        remedy = "export it again without compression"
    known = _JPEG_XL.get(syntax) or (syntax.name if syntax.name != syntax else "a private one")
    raise ImageReadError(
        f"{source}: no decoder of its transfer syntax is installed ({known}); {remedy}"
    )


def read_video_header(path: Path) -> VideoHeader:
    """Count the frames of a video by decoding it once.

    Raises:
        ImageReadError: if PyAV is not installed, or the file is no video that can be decoded, or
            one of more than ``MAX_FRAMES`` frames or ``MAX_PIXELS`` pixels a frame.
    """
    kind = f"a video ({path.suffix.lower().lstrip('.')})"
    command = f"ffmpeg -i {shlex.quote(path.name)} -fps_mode passthrough frame_%05d.png"
    _check_installed(path, kind, f", or make images of it: {command}")
    head_of(path, 1)
    return _counted(path, *_stamp(path))


def read_video_frame(path: Path, frame: int | None) -> NDArray[np.float32]:
    """Read one frame of a video, counted from 0; ``None`` for the only one.

    In order, each frame is decoded once.

    Returns:
        (H, W), or (H, W, 3) of a codec that stores RGB, in [0, 1], turned as the file says.

    Raises:
        ImageReadError: as ``read_video_header``; if the frame is damaged or not there, or there are
            several and none is named.
    """
    header = read_video_header(path)
    if frame is None and header.frames != 1:
        raise ImageReadError(f"{path}: expected one image, found {header.frames} frames; say which")
    return _frame(path, lambda: path.open("rb"), frame or 0, header.frames)


def check_dicom_video(path: Path) -> None:
    """Check that the first frame of a DICOM video can be decoded, without reading on.

    Raises:
        ImageReadError: if not.
    """
    _frame(path, partial(_bit_stream, path), 0, 1)


def read_dicom_video_frame(path: Path, frame: int, frames: int) -> NDArray[np.float32]:
    """Read one frame of a DICOM file that holds a video and states a number of frames.

    Otherwise as ``read_video_frame``.
    """
    return _frame(path, partial(_bit_stream, path), frame, frames)


def _check_installed(source: Path | ImageBytes, kind: str, otherwise: str) -> None:
    try:
        import av  # noqa: F401
    except ImportError:
        raise ImageReadError(
            f"{source}: {kind}, which PyAV reads; it is not installed: run pip install "
            f"'busi-monai[video]'{otherwise}"
        ) from None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _counted(path: Path, *_stamp: int) -> VideoHeader:
    with path.open("rb") as file, _opened(file, path) as container:
        rate = _stream(container, path).average_rate
        frames = sum(1 for _ in _decoded(container, path))
    if not frames:
        raise ImageReadError(f"{path}: a video without a frame; copy it again")
    return VideoHeader(frames, float(rate) if rate else None)


def _opened(file: IO[bytes], path: Path) -> Any:
    import av

    try:
        return av.open(file, options={"format_whitelist": _FORMATS})
    except (av.FFmpegError, ValueError) as error:
        raise ImageReadError(
            f"{path}: not a video that can be read ({type(error).__name__}); copy it again"
        ) from None


def _stream(container: Any, path: Path) -> Any:
    stream = next(iter(container.streams.video), None)
    if stream is None or stream.codec_context is None:
        raise ImageReadError(f"{path}: holds no video that can be decoded; make images of it")
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        raise ImageReadError(f"{path}: frames of more than {MAX_PIXELS:,} pixels")
    return stream


def _decoded(container: Any, path: Path) -> Iterator[Any]:
    """Yield the frames in order, ``None`` for one that is damaged or where the file is cut."""
    import av

    packets = container.demux(_stream(container, path))
    number = 0
    while True:
        try:
            packet = next(packets)
            frames = packet.decode()
        except (StopIteration, EOFError):
            return
        except (av.FFmpegError, ValueError):
            frames = [None]
        for frame in frames:
            number += 1
            if number > MAX_FRAMES:
                raise ImageReadError(f"{path}: more than {MAX_FRAMES:,} frames; cut it")
            yield frame


class _Reader:
    """Decodes one video onwards, and keeps the last frames."""

    def __init__(self, path: Path, opened: Callable[[], IO[bytes]]) -> None:
        self._path = path
        self._file = opened()
        try:
            self._container = _opened(self._file, path)
        except ImageReadError:
            self._file.close()
            raise
        self._frames = _decoded(self._container, path)
        self._kept: deque[_Stored | None] = deque()
        self._bytes = 0
        self._next = 0

    def has(self, number: int) -> bool:
        """Whether a frame is kept or still to come."""
        return number >= self._next - len(self._kept)

    def frame(self, number: int) -> _Stored | None:
        """Return a frame that the reader ``has``, ``None`` for a damaged one.

        Raises:
            IndexError: with the number of frames, if there are not so many.
        """
        while self._next <= number:
            try:
                frame = next(self._frames)
            except StopIteration:
                self.close()
                raise IndexError(self._next) from None
            self._keep(None if frame is None else _stored(frame))
        return self._kept[number - self._next]

    def close(self) -> None:
        """Close the file; the frames that are kept stay."""
        self._container.close()
        self._file.close()

    def _keep(self, stored: _Stored | None) -> None:
        self._kept.append(stored)
        self._next += 1
        self._bytes += 0 if stored is None else stored.values.nbytes
        while self._bytes > MAX_KEPT_BYTES and len(self._kept) > 1:
            dropped = self._kept.popleft()
            self._bytes -= 0 if dropped is None else dropped.values.nbytes


@dataclass(frozen=True)
class _Stored:
    """A frame's values as they are coded, and which of them are black and white."""

    values: NDArray[np.generic]
    black: int
    white: int


def _stored(frame: Any) -> _Stored:
    name = frame.format.name
    bits = frame.format.components[0].bits
    if name.startswith(_PLANES_OF_LUMINANCE) and not name.endswith("f32le"):
        plane = frame.planes[0]
        dtype = np.dtype("u1" if bits <= 8 else ">u2" if name.endswith("be") else "<u2")
        rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
        values = rows[: frame.height, : frame.width].copy()
        full = name.startswith(("gray", "yuvj")) or frame.color_range == _FULL_RANGE
        scale = 1 << (bits - 8)  # ITU-R BT.601 and BT.709: black 16, white 235
        black, white = (0, (1 << bits) - 1) if full else (16 * scale, 235 * scale)
    else:
        values, black, white = frame.to_ndarray(format="rgb24"), 0, 255
    return _Stored(np.rot90(values, round(frame.rotation / 90)), black, white)


_lock = threading.Lock()
_open: dict[tuple[Path, tuple[int, int]], _Reader] = {}
"""The video that was read last, one at most."""


def _frame(
    path: Path, opened: Callable[[], IO[bytes]], number: int, frames: int
) -> NDArray[np.float32]:
    key = (path.absolute(), _stamp(path))
    with _lock:
        reader = _open.get(key)
        if reader is None or not reader.has(number):
            for old in _open.values():
                old.close()
            _open.clear()
            reader = _open[key] = _Reader(path, opened)
        try:
            stored = reader.frame(number)
        except IndexError as error:
            raise ImageReadError(
                f"{path}: there is no frame {number + 1}; {frames} are stated, {error} are there"
            ) from None
    if stored is None:
        raise ImageReadError(f"{path}: frame {number + 1} is damaged, or the file is cut short")
    span = np.float32(stored.white - stored.black)
    values = (stored.values.astype(np.float32) - np.float32(stored.black)) / span
    return np.clip(values, 0, 1, dtype=np.float32)


def _bit_stream(path: Path) -> IO[bytes]:
    """Return a copy of a DICOM file's bit stream (PS3.5 A.4), which is gone when it is closed."""
    import pydicom

    # PyAV asks for a name
    stream = tempfile.NamedTemporaryFile(prefix="busi-monai-")  # noqa: SIM115
    with path.open("rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True)
        file.seek(12, 1)  # tag, representation and length of the pixel data
        for number in range(MAX_FRAMES):
            head = file.read(8)
            tag, length = struct.unpack("<II", head) if len(head) == 8 else (_END, 0)
            if tag != _ITEM:
                break
            if number == 0:  # the offset table
                file.seek(length, 1)
            else:
                stream.write(file.read(length))
    stream.seek(0)
    return cast(IO[bytes], stream)
