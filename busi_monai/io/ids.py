"""Ids: names of cases and images that every file system and every table can hold."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Container

__all__ = ["MAX_ID_BYTES", "composed", "id_key", "safe_id", "unique_id"]

MAX_ID_BYTES = 120
"""Longest id in UTF-8; file systems take 255 bytes with all that stands before and behind it."""

_HASH_LENGTH = 8


def safe_id(name: str) -> str:
    r"""Return the id of a name: fit to be a file's name on every system, and in every table.

    Characters that some system refuses, control characters and bytes that are not UTF-8 become
    ``_``. A name of more than ``MAX_ID_BYTES`` is cut, and ends with a hash of the whole, so that
    names which begin alike stay apart. Letters are ``composed``. Any other name stays as it is.

    Args:
        name: as Python has it from the file system.

    Examples:
        >>> safe_id("benign (1)"), safe_id("läsion"), safe_id("two\nlines"), safe_id("a:b")
        ('benign (1)', 'läsion', 'two_lines', 'a_b')
        >>> import os
        >>> safe_id(os.fsdecode(b"l\xe4sion"))
        'l_sion'
        >>> len(safe_id(300 * "ä").encode())
        119
    """
    name = composed(name)
    safe = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "_", name).strip(" .") or "image"
    if len(safe.encode()) <= MAX_ID_BYTES:
        return safe
    whole = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    kept = safe.encode()[: MAX_ID_BYTES - _HASH_LENGTH - 1].decode("utf-8", "ignore")
    return f"{kept}~{whole[:_HASH_LENGTH]}"


def composed(text: str) -> str:
    """Return a text with each letter in one form, as some systems write ``ä`` as two characters."""
    return unicodedata.normalize("NFC", text)


def id_key(id: str) -> str:
    """Return what is the same for two ids that some file system holds to be one name."""
    return composed(id).casefold()


def unique_id(id: str, taken: Container[str]) -> str:
    """Return the id, numbered from 2 where its ``id_key`` is taken.

    Examples:
        >>> unique_id("Scan", {"scan", "scan-2"})
        'Scan-3'
    """
    candidate, number = id, 1
    while id_key(candidate) in taken:
        number += 1
        candidate = f"{id}-{number}"
    return candidate
