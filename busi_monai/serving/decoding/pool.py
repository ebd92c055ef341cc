"""Hands files to decoding processes, and ends those that fail on one."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import IO, Any, TypeVar

from busi_monai.dicom_images import DicomHeader
from busi_monai.errors import ImageReadError
from busi_monai.image_files import ImageBytes
from busi_monai.images import Picture, PictureFile, file_header, read_picture
from busi_monai.serving.decoding.messages import Task, read_answer, write_task

__all__ = ["DecodingPool"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SPARE_SECONDS = 1.0  # for the process to end itself before it is ended


class DecodingPool:
    """Decodes strangers' files, as many at a time as there are callers.

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
        """Have one process ready, so that the first picture need not wait for it."""
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
        return self._run(file_header, source, source)

    def read(self, picture: PictureFile) -> Picture:
        """Return ``read_picture`` of one picture of a content.

        Raises:
            ImageReadError: as there, and if the file makes its decoder crash, or takes too long.
        """
        if not isinstance(picture.source, ImageBytes):
            raise TypeError(f"expected ImageBytes, got {type(picture.source).__name__}")
        return self._run(read_picture, picture, picture.source)

    def forget(self) -> None:
        """Have no idle process hold a content any more."""
        with self._lock:
            holding = [process for process in self._idle if process.held]
            self._idle[:] = [process for process in self._idle if not process.held]
        for process in holding:
            with contextlib.suppress(EOFError, OSError):  # it ended, and forgot by that
                self._run_by(process, Task(bool, None, b"", self._seconds))

    def _run(self, function: Callable[[Any], Result], argument: Any, source: ImageBytes) -> Result:
        task = Task(function, argument, source.content, self._seconds)
        try:
            answer = self._run_by(self._process(), task)
        except (EOFError, OSError):
            reason = "its decoder gave up, or took too long; it is damaged or too large"
            raise ImageReadError(f"{source}: not readable: {reason}") from None
        if isinstance(answer, ImageReadError):
            raise answer
        return answer

    def _process(self) -> _Process:
        """Return an idle process, or a new one."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_running():
                    return process
                process.end()
        return _Process()

    def _run_by(self, process: _Process, task: Task) -> Any:
        try:
            answer = process.run(task)
        except BaseException as error:
            process.end()
            if isinstance(error, (EOFError, OSError)):
                logger.warning("a decoding process ended with %s", process.status)
            raise
        with self._lock:
            self._idle.append(process)
        return answer


class _Process:
    """One decoding process, and the content that it holds."""

    def __init__(self) -> None:
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "busi_monai.serving.decoding.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **threads},
            start_new_session=True,  # Ctrl-C is for the service, which finishes what it is at
        )
        self.held = b""

    @property
    def status(self) -> int | None:
        """How it ended: the negative number of a signal, or an exit code."""
        return self._process.returncode

    def is_running(self) -> bool:
        """Whether it waits for calls, unless something ended it."""
        return self._process.poll() is None

    def run(self, task: Task) -> Any:
        """Return what came of a call.

        Raises:
            EOFError: if the process ended, of itself or because it took too long.
            OSError: if it had ended before.
        """
        timer = threading.Timer(task.seconds + _SPARE_SECONDS, self._process.kill)
        timer.start()
        try:
            with_content = self.held is not task.content
            write_task(_open(self._process.stdin), task, with_content=with_content)
            self.held = task.content
            return read_answer(_open(self._process.stdout))
        finally:
            timer.cancel()

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what was not sent yet cannot be
                    continue
        self._process.wait()


def _open(stream: IO[bytes] | None) -> Any:
    if stream is None:
        raise RuntimeError("the process was started without pipes")
    return stream


def _end_all(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()
