"""What is kept of predictions if that was asked for: a predictions folder that grows."""

from __future__ import annotations

import csv
import secrets
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from busi_monai.errors import InputError
from busi_monai.files import write_json
from busi_monai.inference import (
    PREDICTIONS_CSV,
    Prediction,
    prediction_cells,
    prediction_columns,
    prediction_row,
)
from busi_monai.io.images import write_mask
from busi_monai.outputs import check_place, holds_nothing, made_by

__all__ = ["Keeper"]


class Keeper:
    """Adds each prediction to a folder of ``predictions.csv``, ``masks/`` and ``run.json``.

    Rows and masks have names that the server made; neither the images nor the clients' file
    names are kept.

    Raises:
        InputError: if the folder holds something else.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str], record: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.classes = tuple(classes)
        self._columns = prediction_columns(self.classes)
        self._adding = threading.Lock()
        self._table = self.folder / PREDICTIONS_CSV
        maker = made_by(self.folder)
        if maker is not None:
            raise InputError(
                f"{self.folder} was made by busi-monai {maker}, which may replace its files; "
                "choose another folder to keep predictions in"
            )
        if self._table.is_file():
            self._check_columns()
            return
        check_place(self.folder)
        if not holds_nothing(self.folder):
            raise InputError(
                f"{self.folder} is not empty and holds no {PREDICTIONS_CSV}; choose another folder"
            )
        (self.folder / "masks").mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "run.json", record)
        with self._table.open("w", encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, self._columns, lineterminator="\n").writeheader()

    def add(self, prediction: Prediction, *, frame: int | None = None) -> str:
        """Keep a prediction.

        Returns:
            The id that the server gave it.
        """
        with self._adding:
            id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
            row = prediction_row(id, "", prediction, self.classes, frame=frame)
            write_mask(self.folder / "masks" / f"{id}.png", prediction.mask)
            with self._table.open("a", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, self._columns, lineterminator="\n")
                writer.writerow(prediction_cells(row))
        return id

    def _check_columns(self) -> None:
        with self._table.open(encoding="utf-8", newline="") as stream:
            found = next(csv.reader(stream), [])
        if found != self._columns:
            raise InputError(
                f"{self._table} has other columns; expected {', '.join(self._columns)}; choose "
                "another folder"
            )
        (self.folder / "masks").mkdir(exist_ok=True)
