"""What decoders do at their worst; imports little, as it is imported by the decoding process."""

from __future__ import annotations

import os
import signal

from busi_monai.io.image_files import ImageBytes


def crash(_: ImageBytes) -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def hang(_: ImageBytes) -> None:
    while True:
        pass


def fill(_: ImageBytes) -> None:
    bytearray(5 * 1024**3)


def chatter(source: ImageBytes) -> int:
    os.write(1, b"words on stdout")
    os.write(2, b"words on stderr")
    return len(source.content)
