"""Untrusted images are decoded in processes of their own, which may crash, hang or grow.

Decoders are C and C++: some abort the process for a few wrong bytes, or never come back. Here such
a file costs its own answer and no other one's.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from busi_monai.errors import ImageReadError
from busi_monai.io.dicom_images import DicomHeader
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile, LoadedImage, file_header, read_image
from busi_monai.serving.isolation import isolate

__all__ = ["DecodingPool"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SPARE_SECONDS = 30.0  # for a process to be started


class DecodingPool:
    """Decodes untrusted files, as many at a time as there are callers.

    Each caller has a pool of one process to itself, so that one file's crash is never another
    one's. Only ``ImageBytes`` are taken.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._idle: list[ProcessPool] = []

    def start(self) -> None:
        """Have one process ready, so that the first image need not wait for it."""
        pool = _one_process()
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

    def _run(self, function: Callable[[Any], Result], argument: ImageBytes | ImageFile) -> Result:
        for _ in range(2):
            pool = self._idle.pop() if self._idle else _one_process()
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


def _one_process() -> ProcessPool:
    # not forked: the service's memory holds tokens and other images
    context = multiprocessing.get_context("spawn")
    return ProcessPool(1, initializer=isolate, context=context)


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
