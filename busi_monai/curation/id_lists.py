"""Lists of image ids in files, as papers publish them."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from busi_monai.datasets import natural_key
from busi_monai.errors import InputError
from busi_monai.images import IMAGE_SUFFIXES

__all__ = ["check_known", "read_id_list"]

_ID_COLUMNS = ("id", "image", "name", "filename")


def read_id_list(path: str | Path) -> list[str]:
    """Read image ids from a text or CSV file.

    Understood are: one id per line (``benign (20)``, with or without ``.png``); a CSV with a column
    ``id`` (or ``image``, ``name``, ``filename``); a CSV with the columns ``class`` and ``id`` where
    the id is a bare number, as in the Curated BUSI list (``benign;20`` is ``benign (20)``).

    Raises:
        InputError: if the file is missing, is not text, holds no id or holds one twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a list of image ids") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable text file: {error}") from error
    lines = [line.strip() for line in lines if line.strip()]
    ids = [_without_suffix(name) for name in (_from_table(lines) or lines)]
    if not ids:
        raise InputError(f"{path} is empty; expected one image id per line, like: benign (20)")
    twice = sorted({name for name in ids if ids.count(name) > 1}, key=natural_key)
    if twice:
        raise InputError(f"{path} lists {_some(twice)} more than once; remove the repetition")
    return ids


def check_known(ids: Collection[str], known: Collection[str], source: str | Path) -> None:
    """Refuse ids that the dataset does not have.

    Raises:
        InputError: naming the unknown ids and the file they stand in.
    """
    have = set(known)
    unknown = [name for name in ids if name not in have]
    if unknown:
        raise InputError(
            f"{source}: {len(unknown)} of {len(ids)} ids are not in the dataset: {_some(unknown)}; "
            "an id is a picture's file name without suffix, like: benign (20)"
        )


def _from_table(lines: list[str]) -> list[str]:
    """Return the ids of a CSV with a known header, else nothing."""
    if not lines:
        return []
    header = lines[0].lower()
    delimiter = next((mark for mark in (";", "\t", ",") if mark in header), ",")
    columns = [word.strip().strip('"') for word in header.split(delimiter)]
    column = next((name for name in _ID_COLUMNS if name in columns), None)
    if column is None:
        return []
    rows = [
        dict(zip(columns, row, strict=False)) for row in csv.reader(lines[1:], delimiter=delimiter)
    ]
    return [_qualified(row, column) for row in rows if row.get(column, "").strip()]


def _qualified(row: dict[str, str], column: str) -> str:
    name = row[column].strip()
    class_name = row.get("class", "").strip()
    return f"{class_name} ({name})" if class_name and name.isdigit() else name


def _without_suffix(name: str) -> str:
    for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _some(names: Collection[str], most: int = 5) -> str:
    shown = ", ".join(list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
