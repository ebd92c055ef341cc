"""Reading ``predictions.csv`` and checking that it can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError

__all__ = [
    "check_predictions",
    "probability_matrix",
    "read_predictions",
    "table_classes",
    "with_numbers",
]

TEXT_COLUMNS = (
    "id", "image", "true_class", "predicted_class", "label_sha256", "group", "birads", "error",
)  # fmt: skip
REQUIRED_COLUMNS = ("id", "true_class", "predicted_class", "lesion_pixels")


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read a ``predictions.csv``, or that of a predictions folder.

    Returns:
        One row per image, text columns as ``str`` (empty where unknown), the others as floats.

    Raises:
        InputError: if the file is missing, is no table, or has no rows.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "predictions.csv"
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected the table of a predictions folder")
    try:
        # ids such as "NA" or "007" are names, not numbers or gaps
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable table: {error}") from error
    if table.empty:
        raise InputError(f"{path} has no rows; expected one for each image")
    return with_numbers(table, path)


def with_numbers(table: pd.DataFrame, where: str | Path) -> pd.DataFrame:
    """Return a copy of a table of ``str`` with floats in all but the text columns.

    Args:
        table: rows as they are written, empty where a value is unknown.
        where: how errors call the table.

    Raises:
        InputError: if a column holds something else than numbers; it is named.
    """
    numbers = {}
    for column in table.columns.difference(list(TEXT_COLUMNS)):
        try:
            known = table[column].where(table[column] != "", None)
            numbers[column] = pd.to_numeric(known).astype(float)
        except ValueError as error:
            raise InputError(f"{where}: column {column!r} holds no numbers: {error}") from error
    return table.assign(**numbers)


def table_classes(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the classes that a table has probabilities for, in their order; maybe none.

    Examples:
        >>> table_classes(pd.DataFrame(columns=["id", "p_malignant", "p_benign"]))
        ('benign', 'malignant')
    """
    return tuple(name for name in CLASSES if f"p_{name}" in table.columns)


def check_predictions(table: pd.DataFrame, classes: Sequence[str]) -> None:
    """Check that a table can be measured.

    Args:
        table: as from ``read_predictions``.
        classes: classes whose probability columns must be there.

    Raises:
        InputError: naming the missing columns, unknown classes, or values that are no
            probabilities.
    """
    wanted = [*REQUIRED_COLUMNS, *(f"p_{name}" for name in classes)]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise InputError(
            f"the table of predictions lacks the columns {', '.join(missing)}; found "
            f"{', '.join(table.columns)}. Evaluation needs predictions made with known truth, as "
            "by busi-monai evaluate; or, with --dataset, those of another program with its masks "
            "as masks/<id>.png beside the table"
        )
    unknown = sorted(set(table["true_class"]) - {*CLASSES, ""})
    if unknown:
        raise InputError(
            f"unknown classes in true_class: {', '.join(unknown)}; expected {', '.join(CLASSES)}"
        )
    values = probability_matrix(table, classes)
    predicted = (_text(table, "error") == "").to_numpy()
    wrong = predicted & ~np.all((values >= 0) & (values <= 1), axis=1)
    if classes and wrong.any():
        raise InputError(
            f"the probabilities of {table['id'][wrong].iloc[0]!r} and {int(wrong.sum()) - 1} more "
            "rows are missing or outside [0, 1]"
        )


def probability_matrix(table: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.float64]:
    """Return (N, C) probabilities, the columns in the order of ``classes``."""
    return table[[f"p_{name}" for name in classes]].to_numpy(dtype=float)


def usable_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without an error."""
    return table[_text(table, "error") == ""].reset_index(drop=True)


def row_groups(table: pd.DataFrame) -> NDArray[np.object_]:
    """Return (N,) group names; an image without one is a group of its own."""
    ids = "image:" + table["id"].astype(str)
    groups = _text(table, "group")
    return ids.where(groups == "", "group:" + groups).to_numpy(dtype=object)


def _text(table: pd.DataFrame, column: str) -> pd.Series:
    if column not in table.columns:
        return pd.Series("", index=table.index)
    return table[column].fillna("").astype(str)
