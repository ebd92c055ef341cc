"""Hands files to decoding processes, and ends those that fail on one."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from busi_monai.errors import ImageReadError
from busi_monai.io.dicom_images import DicomHeader
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile, LoadedImage, file_header, read_image
from busi_monai.threads import SINGLE_THREAD

__all__ = ["DecodingPool"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SPARE_SECONDS = 1.0  # for the process to end itself before it is ended


class DecodingPool:
    """Decodes untrusted files, as many at a time as there are callers.

    A process is started when none is idle, and kept. Only ``ImageBytes`` are taken.

    Args:
        seconds: that one call may take.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._idle: list[_Process] = []
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end_all, self._idle)

    def start(self) -> None:
        """Have one process ready, so that the first image need not wait for it."""
        with self._lock:
            if not self._idle:
                self._idle.append(_Process())

    def close(self) -> None:
        """End the processes that are idle."""
        self._end()

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
        process = self._process()
        try:
            answer = process.run(self._seconds, function, argument)
        except BaseException as error:
            process.end()
            if not isinstance(error, (EOFError, OSError, pickle.UnpicklingError)):
                raise
            logger.warning("a decoding process ended with %s", process.status)
            reason = "its decoder gave up, or took too long; it is damaged or too large"
            raise ImageReadError(f"{argument}: not readable: {reason}") from None
        with self._lock:
            self._idle.append(process)
        if isinstance(answer, ImageReadError):
            raise answer
        return answer

    def _process(self) -> _Process:
        """Return an idle process, or a new one."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.status is None:
                    return process
                process.end()
        return _Process()


class _Process:
    """One decoding process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "busi_monai.serving.decoding.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **SINGLE_THREAD},
            start_new_session=True,  # Ctrl-C is for the service, which finishes what it is at
        )

    @property
    def status(self) -> int | None:
        """How it ended: the negative number of a signal, or an exit code; ``None`` if it runs."""
        return self._process.poll()

    def run(self, seconds: float, function: Callable[[Any], Any], argument: Any) -> Any:
        """Return what came of a call.

        Raises:
            EOFError: if the process ended, of itself or because it took too long.
            OSError: if it had ended before.
            pickle.UnpicklingError: if it ended within its answer.
        """
        calls, answers = self._process.stdin, self._process.stdout
        assert calls is not None and answers is not None
        timer = threading.Timer(seconds + _SPARE_SECONDS, self._process.kill)
        timer.start()
        try:
            pickle.dump((seconds, function, argument), calls, protocol=5)
            calls.flush()
            return pickle.load(answers)
        finally:
            timer.cancel()

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not sent yet cannot be
                stream.close()  # type: ignore[union-attr]
        self._process.wait()


def _end_all(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()
