"""What decoders do at their worst; imports little, as it is imported by the decoding process."""

from __future__ import annotations

import os
import resource
import signal

from busi_monai.io.image_files import ImageBytes

SECRET: list[str] = []


def own_id(_: ImageBytes) -> int:
    return os.getpid()


def circumstances(_: ImageBytes) -> dict[str, object]:
    """How many threads OpenCV has, the limit of core dumps, and what was inherited."""
    import cv2

    core = resource.getrlimit(resource.RLIMIT_CORE)
    return {"threads": cv2.getNumThreads(), "core": core, "secret": SECRET}


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
