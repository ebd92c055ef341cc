"""What a process that decodes untrusted files may do; imports nothing heavy before that is set."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from busi_monai.threads import SINGLE_THREAD

__all__ = ["isolate"]


def isolate(max_memory: int | None) -> None:
    """Limit this process: one thread, so many bytes of memory, no core dump, no console."""
    os.environ.update(SINGLE_THREAD)
    with Path(os.devnull).open("r+b") as nothing:  # decoders print what they like
        for number in (0, 1, 2):
            os.dup2(nothing.fileno(), number)
    if os.name != "nt":
        _limit(max_memory)
    import cv2
    import pydicom  # noqa: F401  (so that the first file need not wait for it)

    import busi_monai.io.images  # noqa: F401

    cv2.setNumThreads(1)


def _limit(max_memory: int | None) -> None:
    import resource

    with contextlib.suppress(OSError):  # Ctrl-C is for the parent, which finishes what it is at
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else a hanging decoder would not be ended
    if max_memory is not None:
        with contextlib.suppress(ValueError, OSError):  # macOS knows the limit and refuses it
            resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
