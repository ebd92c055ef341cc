"""Locks between the processes that work on one folder; the system frees those of dead ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from busi_monai.errors import InputError

__all__ = ["LOCKS", "any_locked", "locked"]

LOCKS = ".locks"
"""Folder of the lock files within an experiment's."""

PATIENCE = 0.5  # seconds; ``any_locked`` of another process takes a lock for a moment


@contextmanager
def locked(folder: Path, name: str, refusal: str | None = None) -> Iterator[None]:
    """Keep other processes from doing the same within the folder meanwhile.

    Args:
        folder: the experiment's.
        name: what is done.
        refusal: message of the error if another process does it; by default it is waited for.

    Raises:
        InputError: with ``refusal``.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with locked(Path(folder), "fold_0"):
        ...         any_locked(Path(folder), "fold_*")
        ...     any_locked(Path(folder), "fold_*")
        True
        False
    """
    lock = FileLock(folder / LOCKS / f"{name}.lock")
    try:
        lock.acquire(timeout=-1 if refusal is None else PATIENCE)
    except Timeout:
        raise InputError(str(refusal)) from None
    try:
        yield
    finally:
        lock.release()


def any_locked(folder: Path, pattern: str) -> bool:
    """Return whether a process holds a lock of the folder whose name fits the pattern."""
    for path in sorted((folder / LOCKS).glob(f"{pattern}.lock")):
        try:
            with FileLock(path).acquire(blocking=False):
                pass
        except Timeout:
            return True
    return False
