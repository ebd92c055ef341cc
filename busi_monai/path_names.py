"""What messages, tables and records call a file that lies in a temporary folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["named", "naming"]

_names: dict[str, str] = {}


@contextlib.contextmanager
def naming(folder: Path, name: str | Path) -> Iterator[None]:
    """Have ``named`` call a folder by another name while the block runs, errors included.

    Args:
        folder: a path that no text holds by chance, such as that of a temporary folder.
        name: what it stands for.
    """
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
