"""Images are decoded in processes of their own, which may crash, hang or grow.

Decoders are C and C++: some abort the process for a few wrong bytes, or never come back. Here such
a file costs its own answer and no other one's: an upload, or a file in a batch.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from busi_monai.errors import ImageReadError
from busi_monai.io.dicom_images import DicomHeader, is_dicom
from busi_monai.io.image_decoders import is_nifti
from busi_monai.io.image_files import ImageBytes, head_of
from busi_monai.io.images import (
    Frames,
    ImageFile,
    LoadedImage,
    file_header,
    frames_of,
    load_image,
    read_image,
)
from busi_monai.io.isolation import isolate
from busi_monai.io.video import is_video

__all__ = ["DecodingPool", "FileDecoder"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_MEMORY = 4 * 1024**3
"""Bytes of address space for untrusted images; one of 32 million pixels takes a quarter of it."""

FILE_SECONDS = 1800.0
"""Time for a file in a batch, of a video perhaps, whose frames are counted by decoding them."""

_SPARE_SECONDS = 30.0  # for a process to be started
_COMMON = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")  # and JPEG, BMP, TIFF
_HEAD_LENGTH = 544


class DecodingPool:
    """Decodes untrusted files, as many at a time as there are callers.

    Each caller has a pool of one process to itself, so that one file's crash is never another
    one's. Only ``ImageBytes`` are taken.
    """

    def __init__(self, seconds: float = 10.0, max_memory: int | None = MAX_MEMORY) -> None:
        self._seconds = seconds
        self._max_memory = max_memory
        self._idle: list[ProcessPool] = []

    def start(self) -> None:
        """Have one process ready, so that the first image need not wait for it."""
        pool = self._one_process()
        pool.schedule(os.getpid)
        self._idle.append(pool)

    def close(self) -> None:
        """End the processes that are idle."""
        while self._idle:
            _end(self._idle.pop())

    def header(self, source: ImageBytes) -> DicomHeader | None:
        """Return ``file_header`` of a content.

        Raises:
            ImageReadError: as there, and if the file makes its decoder crash, or takes too long.
        """
        return self._run(file_header, source)

    def read(self, image: ImageFile) -> LoadedImage:
        """Return ``read_image`` of one image of a content.

        Raises:
            ImageReadError: as there, and if the file makes its decoder crash, or takes too long.
        """
        if not isinstance(image.source, ImageBytes):
            raise TypeError(f"expected ImageBytes, got {type(image.source).__name__}")
        return self._run(read_image, image)

    def _one_process(self) -> ProcessPool:
        # not forked: the parent's memory holds tokens and other images
        return ProcessPool(1, initializer=isolate, initargs=[self._max_memory], context=_Context())

    def _run(
        self, function: Callable[[Any], Result], argument: ImageBytes | ImageFile | Path
    ) -> Result:
        for _ in range(2):
            try:
                pool = self._idle.pop()
            except IndexError:
                pool = self._one_process()
            try:
                task = pool.schedule(_decoded, (function, argument), timeout=self._seconds)
                answer: Result = task.result(self._seconds + _SPARE_SECONDS)
                return answer
            except (TimeoutError, ProcessExpired) as error:
                logger.warning("a decoding process ended: %r", error)
                if not task.done():
                    _end(pool)
                break
            except (BrokenProcessPool, RuntimeError):  # the process ended while it was idle
                _end(pool)
            finally:
                if pool.active:
                    self._idle.append(pool)
        reason = "its decoder gave up, or took too long; it is damaged or too large"
        raise ImageReadError(f"{argument}: not readable: {reason}")


class FileDecoder(DecodingPool):
    """Reads the files of a batch: PNG, JPEG, BMP and TIFF here, all others in other processes.

    These are started when the first such file comes. Use as a context manager.
    """

    def __init__(self) -> None:
        super().__init__(FILE_SECONDS, max_memory=None)

    def __enter__(self) -> FileDecoder:
        """Return the decoder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self.close()

    def frames_of(self, path: Path, *, crop_to_region: bool = False) -> Frames:
        """Return ``frames_of`` a file.

        Raises:
            ImageReadError: as there, and if the file makes its decoder crash.
        """
        function = partial(frames_of, crop_to_region=crop_to_region)
        return function(path) if _is_read_here(path) else self._run(function, path)

    def load(self, source: Any) -> LoadedImage:
        """Return ``load_image`` of a source.

        Raises:
            ImageReadError: as there, and if the file makes its decoder crash.
        """
        if not isinstance(source, ImageFile) or _is_read_here(source.source):
            return load_image(source)
        return self._run(read_image, source)


def _is_read_here(source: Path | ImageBytes) -> bool:
    """Whether a file is of a common format, or no file to be decoded at all."""
    if isinstance(source, ImageBytes) or multiprocessing.current_process().daemon:
        return True  # a daemon may have no process of its own
    try:
        head = head_of(source, _HEAD_LENGTH)
    except (ImageReadError, OSError):
        return True  # reading it says why
    special = is_video(source) or is_dicom(source, head) or is_nifti(source, head)
    return head.startswith(_COMMON) and not special


class _Process(SpawnProcess):
    """A process that does not run the main module again, which may be anybody's script."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        with _without_main():
            return SpawnProcess._Popen(process_obj)


class _Context(SpawnContext):
    Process = _Process


_hiding_main = threading.Lock()


@contextmanager
def _without_main() -> Iterator[None]:
    with _hiding_main:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _decoded(function: Callable[[Any], Result], argument: Any) -> Result:
    """Call a function in the decoding process."""
    try:
        return function(argument)
    except ImageReadError:
        raise
    except Exception as error:
        # a decoder's own words may hold values of the file
        raise ImageReadError(f"{argument}: cannot be read ({type(error).__name__})") from None
