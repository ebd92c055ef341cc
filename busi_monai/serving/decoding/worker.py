"""The decoding process: ``python -m busi_monai.serving.decoding.worker``."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from busi_monai.errors import ImageReadError

__all__ = ["main"]

_MAX_MEMORY = 4 * 1024**3
"""Bytes of address space; an image of 32 million pixels takes a quarter of it."""


def main() -> None:
    """Answer calls until no more come, or one takes too long, which ends the process.

    A call is a pickled ``(seconds, function, argument)``, its answer a pickled value or error.
    """
    answers, calls = _pipes()
    _limit_memory()
    with contextlib.suppress(EOFError):
        while True:
            pickle.dump(_answer(*pickle.load(calls)), answers, protocol=5)
            answers.flush()


def _answer(seconds: float, function: Callable[[Any], Any], argument: Any) -> Any:
    _end_after(seconds)
    try:
        return function(argument)
    except ImageReadError as error:
        return error
    except Exception as error:
        # a decoder's own words may hold values of the file
        return ImageReadError(f"{argument}: cannot be read ({type(error).__name__})")
    finally:
        _end_after(0)


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take the pipes for messages alone: decoders print what they like."""
    answers = os.fdopen(os.dup(1), "wb")
    calls = os.fdopen(os.dup(0), "rb")
    with Path(os.devnull).open("r+b") as nothing:
        for number in (0, 1, 2):
            os.dup2(nothing.fileno(), number)
    return answers, calls


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(ValueError, OSError):  # macOS knows the limit and refuses it
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_after(seconds: float) -> None:
    """Have the system end this process, whatever it is at; 0 takes that back."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
