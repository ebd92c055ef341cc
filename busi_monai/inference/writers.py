"""The predictions folder: ``predictions.csv``, ``masks/``, ``overlays/``, ``run.json``."""

from __future__ import annotations

import contextlib
import csv
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import CLASSES, PredictionWarning
from busi_monai.errors import ImageReadError, InputError
from busi_monai.files import named
from busi_monai.inference.formats import FurtherFormats
from busi_monai.inference.overlays import draw_overlay
from busi_monai.inference.prediction import Prediction
from busi_monai.inference.progress import Entry, ProgressFile
from busi_monai.io.image_files import id_key, safe_id, unique_id
from busi_monai.io.images import ImageFile, LoadedImage, encode_png, mask_sha256, read_image
from busi_monai.metrics import segmentation_scores
from busi_monai.records import RunRecord

__all__ = [
    "PREDICTIONS_CSV",
    "PredictionsFolder",
    "Truth",
    "prediction_cells",
    "prediction_columns",
    "prediction_row",
]

PREDICTIONS_CSV = "predictions.csv"

ROWS_AT_ONCE, SECONDS_AT_ONCE = 256, 2.0
"""After how many rows, or what time, these and their files are made sure to stay on the disk."""

BOX_COLUMNS = ("box_x", "box_y", "box_w", "box_h")
SIZE_COLUMNS = ("lesion_mm2", "long_axis_px", "short_axis_px", "long_axis_mm", "short_axis_mm")
SCORE_COLUMNS = ("dice", "iou", "mean_iou", "pixel_accuracy", "hd95_px")
TRUTH_COLUMNS = (
    *SCORE_COLUMNS, "true_lesion_pixels", "true_lesion_fraction", "label_sha256", "group", "birads",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of an image beforehand.

    Attributes:
        class_name: true class.
        mask: (H, W) native true mask, non-zero on the lesion; ``None`` where none was drawn.
        group: what stays together in resampling (patient or near-duplicate group).
        birads: BI-RADS category that a radiologist gave.
    """

    class_name: str | None = None
    mask: NDArray[np.generic] | None = None
    group: str | None = None
    birads: str | None = None


def prediction_columns(classes: Sequence[str] = CLASSES, *, with_truth: bool = False) -> list[str]:
    """Return the columns of ``predictions.csv`` in order.

    Examples:
        >>> prediction_columns(("benign", "malignant"))[:5]
        ['id', 'image', 'frame', 'predicted_class', 'p_benign']
    """
    return [
        "id", "image", "frame", *(["true_class"] if with_truth else []),
        "predicted_class", *(f"p_{name}" for name in classes),
        "lesion_pixels", "lesion_fraction", *BOX_COLUMNS, *SIZE_COLUMNS,
        *(TRUTH_COLUMNS if with_truth else []), "seconds", "warnings", "error",
    ]  # fmt: skip


def prediction_row(
    id: str,
    image: str,
    prediction: Prediction,
    classes: Sequence[str] = CLASSES,
    *,
    frame: int | None = None,
) -> dict[str, Any]:
    """Return a prediction's row of ``predictions.csv``: numbers as such, ``None`` for no value.

    Args:
        id: name of the row.
        image: what was predicted, as the table tells it.
        prediction: what was predicted.
        classes: ordered class names.
        frame: number of the frame, counted from 0; ``None`` for a still.
    """
    axes = (prediction.diameters_px, prediction.diameters_mm)
    sizes = (prediction.lesion_mm2, *(value for pair in axes for value in pair or (None, None)))
    return {
        "id": id,
        "image": image,
        "frame": None if frame is None else frame + 1,
        "predicted_class": prediction.predicted_class,
        **{f"p_{name}": round(prediction.probabilities[name], 6) for name in classes},
        "lesion_pixels": prediction.lesion_pixels,
        "lesion_fraction": round(prediction.lesion_fraction, 6),
        **dict(zip(BOX_COLUMNS, prediction.box or (None,) * 4, strict=True)),
        **{
            name: None if value is None else round(value, 4)
            for name, value in zip(SIZE_COLUMNS, sizes, strict=True)
        },
        "seconds": round(prediction.seconds, 6),
        "warnings": "; ".join(warning.message for warning in prediction.warnings) or None,
    }


def prediction_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's values as they are written.

    Examples:
        >>> prediction_cells({"id": "a", "frame": None, "p_benign": 0.5})
        {'id': 'a', 'frame': '', 'p_benign': '0.500000'}
    """
    return {
        name: f"{value:.6f}" if isinstance(value, float) else "" if value is None else str(value)
        for name, value in row.items()
    }


class PredictionsFolder:
    """Writes predictions row by row into a folder; with ``output_folder``, it is whole or absent.

    Use as a context manager.

    Args:
        folder: an empty folder, as from ``output_folder``.
        classes: ordered class names, one probability column for each; empty without a class head.
        with_truth: whether true classes and masks will be told.
        overlays: whether images with outlines are written.
        record: becomes ``run.json``; by default a new one.
        formats: what else is written of each prediction.
        finish: called with the folder when its table is complete, for what is made from it
            (``metrics.json``, a report) and has to appear together with it.
        taken: ids that ``reserve`` does not give.
        progress: gets what is done, if that is to be gone on with after an interruption. What it
            holds already is taken over by ``kept``, image by image.
        read: reads an image for its overlay.
    """

    def __init__(
        self,
        folder: str | Path,
        classes: Sequence[str] = CLASSES,
        *,
        with_truth: bool = False,
        overlays: bool = True,
        record: RunRecord | None = None,
        formats: FurtherFormats | None = None,
        finish: Sequence[Callable[[Path], object]] = (),
        taken: Sequence[str] = (),
        progress: ProgressFile | None = None,
        read: Callable[[ImageFile], LoadedImage] = read_image,
    ) -> None:
        self.folder = Path(folder)
        self.classes = tuple(classes)
        self.record = record or RunRecord()
        self.counts: Counter[str] = Counter()
        self._with_truth = with_truth
        self._kinds = ("masks", "overlays") if overlays else ("masks",)
        self._formats = formats
        self._current: str | None = None
        self._finish = tuple(finish)
        self._columns = prediction_columns(self.classes, with_truth=with_truth)
        self._not_to_give = taken
        self._progress = progress
        self._read = read
        self._kept: Iterator[Entry] = iter(())
        self._stream: TextIO | None = None
        self._rows: list[dict[str, str]] = []
        self._entries: list[Entry] = []
        self._unsynced: deque[Path] = deque()
        self._due = time.monotonic() + SECONDS_AT_ONCE

    def __enter__(self) -> PredictionsFolder:
        """Begin the table."""
        for name in self._kinds:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # newline="" is the csv module's wish; the byte order mark would break other readers; bytes
        # of a path that are not UTF-8 are told as \udcNN
        table = self.folder / PREDICTIONS_CSV
        self._stream = table.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.DictWriter(self._stream, self._columns, lineterminator="\n")
        self._writer.writeheader()
        if self._progress is not None:
            by_file = self._formats is not None and self._formats.by_file
            self._kept = self._progress.entries(lambda entry: not by_file or "row" not in entry)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the table, and write what is made from it unless the block raised."""
        if self._stream is None:
            return
        with self._stream:
            if kind is None:
                self._complete_table()
            elif self._progress is not None:
                with contextlib.suppress(OSError):  # the disk may be full
                    self._write_rows()
        if kind is None:
            self._write_record()

    def add(
        self,
        id: str,
        image: str | Path | ImageFile,
        prediction: Prediction,
        truth: Truth | None = None,
    ) -> dict[str, Any]:
        """Write one prediction: its row, its mask, its overlay and further formats.

        Args:
            id: name of the row and of the files; one that is taken already gets a number.
            image: path of the image or a frame of a file. The frames of a file come one after
                another.
            prediction: what was predicted.
            truth: what is known of it, if the folder is ``with_truth``.

        Returns:
            The row, numbers as such and ``None`` where its cell is empty.
        """
        id = self.reserve(id)
        file = image if isinstance(image, ImageFile) else ImageFile(Path(image))
        self.write_images(id, file, prediction, truth)
        return self.add_row(id, file, prediction, truth)

    @cached_property
    def _taken(self) -> set[str]:
        return set(map(id_key, self._not_to_give))  # made only where an id is to be found

    def reserve(self, id: str) -> str:
        """Return a name for row and files that no earlier one has, whatever case a disk ignores."""
        id = unique_id(safe_id(id), self._taken)
        self._taken.add(id_key(id))
        return id

    def write_images(
        self,
        id: str,
        image: ImageFile,
        prediction: Prediction,
        truth: Truth | None = None,
        loaded: LoadedImage | None = None,
    ) -> None:
        """Write the mask and the overlay; several threads may, each under an id of its own.

        Args:
            id: as from ``reserve``.
            image: read for the overlay unless all of it is ``loaded``.
            prediction: what was predicted.
            truth: drawn as well.
            loaded: what was read of the image.
        """
        self._write(id, "masks", np.where(prediction.mask > 0, np.uint8(255), np.uint8(0)))
        if "overlays" not in self._kinds:
            return
        if loaded is None or loaded.canvas is not None:
            loaded = self._read(replace(image, crop_to_region=False))
        drawn = draw_overlay(
            loaded.pixels,
            prediction.mask,
            predicted_class=prediction.predicted_class,
            confidence=prediction.confidence,
            true_mask=truth.mask if truth else None,
            true_class=truth.class_name if truth else None,
        )
        self._write(id, "overlays", drawn)

    def add_row(
        self, id: str, image: ImageFile, prediction: Prediction, truth: Truth | None = None
    ) -> dict[str, Any]:
        """Write the row and the further formats of what ``write_images`` has written.

        Args and Returns: as for ``add``.
        """
        path = str(Path(named(image.source)).absolute())
        if path != self._current:
            self._complete_file()
            self._current = path
        row = prediction_row(id, path, prediction, self.classes, frame=image.frame)
        if self._with_truth and truth is not None:
            row |= _truth_columns(truth, prediction)
        made = [f"{kind}/{id}.png" for kind in self._kinds]
        if self._formats is not None:
            made += self._formats.add(self.folder, id, image, prediction)
        entry = {"row": row, "made": made, "file": named(image.source), "rank": prediction.rank}
        self._add_entry(entry | {"warnings": [asdict(each) for each in prediction.warnings]})
        return row

    def kept(self, id: str) -> Entry | None:
        """Enter what an interrupted process did of the next image.

        Returns:
            Its row, and the ``rank`` of its prediction, if it was predicted; ``None`` if it is to
            be done.

        Raises:
            InputError: if that process did another image.
        """
        for entry in self._kept:
            self._enter(entry)
            if "row" not in entry:
                continue
            if entry["row"]["id"] != id:
                raise InputError(
                    f"cannot be resumed: an image was {entry['row']['id']} and is {id} now; start "
                    "anew without --resume"
                )
            return entry
        return None

    def fail(
        self, id: str, image: str | Path | ImageFile, error: object, *, reserved: bool = False
    ) -> None:
        """Write a row for an image that could not be predicted, with the reason.

        ``reserved`` says that the id comes from ``reserve``.
        """
        source, frame = (
            (image.source, image.frame) if isinstance(image, ImageFile) else (image, None)
        )
        row = {
            "id": id if reserved else self.reserve(id),
            "image": named(source),
            "frame": None if frame is None else frame + 1,
            "error": named(error),
        }
        entry = {"row": row, "made": [], "file": named(image)}
        self._add_entry(entry, lasting=isinstance(image, ImageFile))

    def forget(self) -> None:
        """Leave nothing to go on with."""
        if self._progress is not None:
            self._progress.forget()
            self._progress = None

    def _complete_file(self) -> None:
        """Write what is written once for a file, when another one begins or none is left."""
        if self._formats is None or not self._formats.by_file or self._current is None:
            return
        entry: Entry = {"file": self._current, "made": [], "error": None}
        known = len(self._formats.series)
        try:
            entry["made"] = self._formats.complete_file(self.folder)
        except ImageReadError as error:
            entry["error"] = named(error)
        self._add_entry(entry | {"series": dict(islice(self._formats.series.items(), known, None))})

    def _complete_table(self) -> None:
        self._complete_file()
        for entry in self._kept:  # of the last file
            self._enter(entry)
        self._write_rows()

    def _write_record(self) -> None:
        counts = {"predicted": self.counts["predicted"], "failed": self.counts["failed"]}
        by_class = {name: self.counts[name] for name in self.classes}
        self.record.write(self.folder, {"counts": {**counts, **by_class}})
        for finish in self._finish:
            finish(self.folder)

    def _add_entry(self, entry: Entry, *, lasting: bool = True) -> None:
        """Enter what was done, and note it for a process that goes on."""
        if lasting and self._progress is not None:
            self._entries.append(entry)
        self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        """Take into account what was done, by this process or one before it."""
        if self._stream is None:
            raise RuntimeError("use PredictionsFolder in a with statement")
        row, file = entry.get("row"), entry["file"]
        if row is None:
            if entry["error"] is not None:
                self.record.fail(file, entry["error"])
                self.counts["unwritten"] += 1
            if self._formats is not None:
                self._formats.series |= entry["series"]
            return
        if "error" in row:
            self.record.fail(file, row["error"])
            self.counts["failed"] += 1
        else:
            for warning in entry["warnings"]:
                self.record.warn(file, PredictionWarning(**warning))
            self.counts["predicted"] += 1
            self.counts["with_lesion"] += row["lesion_pixels"] > 0
            if row["predicted_class"]:
                self.counts[row["predicted_class"]] += 1
        self._rows.append(prediction_cells(row))
        if len(self._rows) >= ROWS_AT_ONCE or time.monotonic() >= self._due:
            self._write_rows()

    def _write_rows(self) -> None:
        """Write the rows that wait, once their files are on the disk to stay."""
        if self._stream is None:
            return
        while self._unsynced:
            with self._unsynced.popleft().open("rb") as written:
                os.fsync(written.fileno())
        if self._progress is not None and self._entries:
            self._progress.append(self._entries)
            self._entries.clear()
        self._writer.writerows(self._rows)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._rows.clear()
        self._due = time.monotonic() + SECONDS_AT_ONCE

    def _write(self, id: str, kind: str, pixels: NDArray[np.uint8]) -> None:
        path = self.folder / kind / f"{id}.png"
        path.write_bytes(encode_png(pixels))
        self._unsynced.append(path)


def _truth_columns(truth: Truth, prediction: Prediction) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "true_class": truth.class_name,
        "group": truth.group,
        "birads": truth.birads,
    }
    if truth.mask is not None:
        true = np.asarray(truth.mask) > 0
        columns["true_lesion_pixels"] = int(true.sum())
        columns["true_lesion_fraction"] = float(true.mean())
        columns["label_sha256"] = mask_sha256(true)
        if not prediction.has_mask:  # a classifier's mask is no wrong one
            return columns
        scores = segmentation_scores(prediction.mask > 0, true)
        columns |= {
            name: None if np.isnan(scores[name]) else round(float(scores[name]), 6)
            for name in SCORE_COLUMNS
        }
    return columns
