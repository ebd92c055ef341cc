"""Lists of image ids in files, as papers publish them: bare, or with a reason each."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from busi_monai.datasets import natural_key
from busi_monai.datasets.tables import read_lines
from busi_monai.errors import InputError
from busi_monai.io.image_files import without_image_suffix

__all__ = ["check_known", "read_id_list", "read_known_images"]

_ID_COLUMNS = ("id", "image", "name", "filename")
_REASON = "reason"


def read_id_list(path: str | Path) -> list[str]:
    """Read image ids from a text or CSV file.

    Understood are: one id per line (``benign (20)``, with or without ``.png``); a CSV with a column
    ``id`` (or ``image``, ``name``, ``filename``); a CSV with the columns ``class`` and ``id`` where
    the id is a bare number, as in the Curated BUSI list (``benign;20`` is ``benign (20)``).

    Raises:
        InputError: if the file is missing, is not text, holds no id or holds one twice.
    """
    ids = [id for id, _ in _rows(path, lambda line: (line, ""))]
    if not ids:
        raise InputError(f"{path} is empty; expected one image id per line, like: benign (20)")
    return ids


def read_known_images(path: str | Path, ids: Collection[str]) -> dict[str, str]:
    """Read what is known of a dataset's images beforehand, such as which show an axilla.

    Understood are the tables of ``read_id_list`` with a further column ``reason``, and, without a
    header, one ``id;reason`` per line (also with a comma or tab).

    Args:
        path: of the list.
        ids: all that the dataset has.

    Returns:
        The reason by id.

    Raises:
        InputError: as ``read_id_list``, and if an id has no reason or the dataset has no such id.
    """
    rows = _rows(path, _id_and_reason)
    bare = [id for id, reason in rows if not reason]
    if bare or not rows:
        raise InputError(
            f"{path}: {f'no reason for {_some(bare)}' if bare else 'it is empty'}; expected a "
            "CSV with the columns id and reason, or lines like: benign (20);axilla"
        )
    check_known([id for id, _ in rows], ids, path)
    return dict(rows)


def _rows(path: str | Path, divided: Callable[[str], tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (id, reason) of each line, the reason empty where none is stated."""
    path = Path(path)
    try:
        lines, delimiter = read_lines(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a list of image ids") from None
    except OSError as error:
        raise InputError(f"{path} is not a readable text file: {error}") from error
    lines = [line.strip() for line in lines if line.strip()]
    rows = _from_table(lines, delimiter) or [divided(line) for line in lines]
    rows = [(without_image_suffix(id), reason) for id, reason in rows]
    counts = Counter(id for id, _ in rows)
    twice = sorted((id for id, count in counts.items() if count > 1), key=natural_key)
    if twice:
        raise InputError(f"{path} lists {_some(twice)} more than once; remove the repetition")
    return rows


def check_known(ids: Collection[str], known: Collection[str], source: str | Path) -> None:
    """Refuse ids that the dataset does not have."""
    have = set(known)
    unknown = [name for name in ids if name not in have]
    if unknown:
        raise InputError(
            f"{source}: {len(unknown)} of {len(ids)} ids are not in the dataset: {_some(unknown)}; "
            "an id is an image's file name without suffix, like: benign (20)"
        )


def _id_and_reason(line: str) -> tuple[str, str]:
    """Return id and reason of a line without header, divided by the first mark in it."""
    id, *reason = re.split(r"[;\t,]", line, maxsplit=1)
    return id.strip(), "".join(reason).strip()


def _from_table(lines: list[str], delimiter: str | None) -> list[tuple[str, str]]:
    """Return the ids and reasons of a CSV with a known header, else nothing."""
    if not lines:
        return []
    header = lines[0].lower()
    delimiter = delimiter or next((mark for mark in ";\t," if mark in header), ",")
    columns = [word.strip().strip('"') for word in header.split(delimiter)]
    column = next((name for name in _ID_COLUMNS if name in columns), None)
    if column is None:
        return []
    rows = [
        dict(zip(columns, row, strict=False)) for row in csv.reader(lines[1:], delimiter=delimiter)
    ]
    return [
        (_qualified(row, column), row.get(_REASON, "").strip())
        for row in rows
        if row.get(column, "").strip()
    ]


def _qualified(row: dict[str, str], column: str) -> str:
    name = row[column].strip()
    class_name = row.get("class", "").strip()
    return f"{class_name} ({name})" if class_name and name.isdigit() else name


def _some(names: Collection[str], most: int = 5) -> str:
    shown = ", ".join(list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
