"""Files that are whole or absent: atomic writes, JSON, hashes; and what messages call them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from busi_monai.errors import InputError

__all__ = [
    "atomic_file",
    "file_sha256",
    "find_named",
    "leaving_by_sigterm",
    "lie_within_each_other",
    "named",
    "naming",
    "read_json",
    "temporary_folder",
    "write_json",
    "write_text",
]


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well.

    The previous file stays untouched if the block raises, the disk is full or the process is
    killed. The temporary path keeps the suffix, so that libraries which look at it still work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".partial-{secrets.token_urlsafe(6)}{''.join(path.suffixes)}"
    partial.touch(exist_ok=False)  # with the usual permissions, unlike tempfile's
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a private folder that is gone at the end, also where SIGTERM ends the process."""
    with (
        leaving_by_sigterm(),
        tempfile.TemporaryDirectory(prefix="busi-monai-", ignore_cleanup_errors=True) as made,
    ):
        yield Path(made).resolve()


@contextlib.contextmanager
def leaving_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise ``SystemExit`` within the block, as a scheduler's time limit sends it.

    In a thread, or where another handler is set, nothing is changed.
    """

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    handled = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    handled &= threading.current_thread() is threading.main_thread()
    if handled:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if handled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def write_text(path: str | Path, text: str) -> None:
    r"""Write UTF-8 text atomically, with line feeds as line ends on every system.

    Bytes of a path that are not UTF-8 are written as ``\\udcNN``, from which JSON reads them again.
    """
    with atomic_file(path) as partial, _text_stream(partial) as stream:
        stream.write(text)


def _text_stream(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically: two-space indent, non-ASCII kept, NaN refused."""
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as partial, _text_stream(partial) as stream:
        stream.writelines(encoder.iterencode(content))  # never all of it in memory
        stream.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: if it is missing, cannot be read or is not JSON; the message names the file and
            the place.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def lie_within_each_other(first: Path, second: Path) -> bool:
    """Whether two folders are the same, or one lies within the other."""
    first, second = first.resolve(), second.resolve()
    return first == second or first in second.parents or second in first.parents


def find_named(given: str | Path, known: Mapping[str, Path], kind: str, other: str) -> Path:
    """Return what is known under a name, or what lies at a path.

    Raises:
        InputError: if it is neither; the message says what ``kind`` is looked for, what ``other``
            a path may lead to, and which names are known.
    """
    if str(given) in known:
        return known[str(given)]
    path = Path(given)
    if path.exists():
        return path.absolute()
    raise InputError(f"no {kind} {str(given)!r}; expected {other} or one of {', '.join(known)}")


_names: dict[str, str] = {}


@contextlib.contextmanager
def naming(folder: Path, name: str | Path) -> Iterator[None]:
    """Have ``named`` and errors call a temporary folder by another name within the block."""
    _names[str(folder)] = str(name)
    try:
        yield
    except BaseException as error:
        error.args = tuple(named(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = named(error.filename)
        raise
    finally:
        del _names[str(folder)]


def named(text: object) -> str:
    """Return a path or text with the names for the folders of ``naming``.

    Examples:
        >>> with naming(Path("/unpacked/scans.zip"), "scans.zip"):
        ...     named(Path("/unpacked/scans.zip/benign/x.png"))
        'scans.zip/benign/x.png'
    """
    told = str(text)
    for folder, name in _names.copy().items():
        told = told.replace(folder, name)
    return told
