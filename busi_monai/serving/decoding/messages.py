"""What the service and its decoding process tell each other over their pipes."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = ["Task", "read_answer", "read_task", "write_answer", "write_task"]

_TASK = struct.Struct(">d?QQ")  # seconds, whether the content follows, lengths of content and call
_ANSWER = struct.Struct(">Q")
_CONTENT = "content"


@dataclass(frozen=True)
class Task:
    """A call on a file's content.

    Attributes:
        function: of a module, found there again by its name.
        argument: holds the content.
        content: the file's bytes, which are sent once for all calls on them.
        seconds: that it may take.
    """

    function: Callable[[Any], Any]
    argument: Any
    content: bytes
    seconds: float


class _Pickler(pickle.Pickler):
    def __init__(self, stream: BinaryIO, content: bytes) -> None:
        super().__init__(stream, protocol=5)
        self._content = content

    def persistent_id(self, value: Any) -> str | None:
        return _CONTENT if value is self._content else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, content: bytes) -> None:
        super().__init__(stream)
        self._content = content

    def persistent_load(self, name: str) -> bytes:
        return self._content


def write_task(stream: BinaryIO, task: Task, *, with_content: bool) -> None:
    """Send a call, and the content if the process does not hold it yet."""
    call = io.BytesIO()
    _Pickler(call, task.content).dump((task.function, task.argument))
    content = task.content if with_content else b""
    written = call.getvalue()
    stream.write(_TASK.pack(task.seconds, with_content, len(content), len(written)))
    stream.write(content)
    stream.write(written)
    stream.flush()


def read_task(stream: BinaryIO, held: bytes) -> Task:
    """Wait for a call.

    Args:
        stream: to read.
        held: the content that came last.

    Raises:
        EOFError: if no more will come.
    """
    seconds, with_content, size, length = _TASK.unpack(_exactly(stream, _TASK.size))
    content = _exactly(stream, size) if with_content else held
    function, argument = _Unpickler(io.BytesIO(_exactly(stream, length)), content).load()
    return Task(function, argument, content, seconds)


def write_answer(stream: BinaryIO, answer: Any) -> None:
    """Send what came of a call, a value or an exception."""
    written = pickle.dumps(answer, protocol=5)
    stream.write(_ANSWER.pack(len(written)))
    stream.write(written)
    stream.flush()


def read_answer(stream: BinaryIO) -> Any:
    """Wait for what came of a call.

    Raises:
        EOFError: if the process ended instead.
    """
    (length,) = _ANSWER.unpack(_exactly(stream, _ANSWER.size))
    return pickle.loads(_exactly(stream, length))


def _exactly(stream: BinaryIO, length: int) -> bytes:
    found = stream.read(length)
    if len(found) < length:
        raise EOFError
    return found
