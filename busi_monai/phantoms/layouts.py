"""Phantoms written in the layouts of the public datasets: names, tables and kinds of masks."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import CLASSES
from busi_monai.datasets import BUS_BRA_FOLDS, BUS_BRA_TABLE, BUS_UCLM_TABLE
from busi_monai.files import write_text
from busi_monai.io.images import write_mask, write_png

__all__ = ["LAYOUT_WRITERS", "LayoutWriter"]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class LayoutWriter(ABC):
    """Writes images with their masks into a folder of one layout, one after the other.

    Attributes:
        classes: the classes that the layout can hold.
        many_masks: whether an image may have several masks; else their union is written.
        folder: where to write.
    """

    classes: ClassVar[tuple[str, ...]] = CLASSES
    many_masks: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.rows: list[tuple[object, ...]] = []

    @abstractmethod
    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        """Write one image, (H, W) or (H, W, 3), with its (H, W) masks, and return its id."""

    @abstractmethod
    def image_path(self, case_id: str) -> Path:
        """Return where the image of an id lies."""

    def finish(self) -> None:
        """Write the table of the rows that were added, if the layout has one."""
        if self.rows:
            self._write_table()

    def _write_table(self) -> None:
        raise NotImplementedError

    def _next(self, kind: str) -> int:
        self.counts[kind] += 1
        return self.counts[kind]


class BusiWriter(LayoutWriter):
    """``benign/benign (1).png``, ``benign (1)_mask.png``, ``benign (1)_mask_1.png``."""

    many_masks = True

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        """Write one image with its masks."""
        case_id = f"{class_name} ({self._next(class_name)})"
        write_png(self.image_path(case_id), pixels)
        for index, mask in enumerate(masks):
            suffix = f"_mask_{index}" if index else "_mask"
            write_mask(self.folder / class_name / f"{case_id}{suffix}.png", mask)
        return case_id

    def image_path(self, case_id: str) -> Path:
        """Return where the image of an id lies."""
        return self.folder / case_id.split(" ", maxsplit=1)[0] / f"{case_id}.png"


class FolderWriter(LayoutWriter):
    """``images/case_0001.png``, ``masks/case_0001.png``, ``labels.csv``."""

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        """Write one image with the union of its masks."""
        case_id = f"case_{self._next('case'):04d}"
        write_png(self.image_path(case_id), pixels)
        write_mask(self.folder / "masks" / f"{case_id}.png", _union(masks))
        self.rows.append((f"{case_id}.png", class_name))
        return case_id

    def image_path(self, case_id: str) -> Path:
        """Return where the image of an id lies."""
        return self.folder / "images" / f"{case_id}.png"

    def _write_table(self) -> None:
        write_text(self.folder / "labels.csv", _table([("image", "label"), *self.rows]))


class BusBraWriter(LayoutWriter):
    """``Images/bus_0001-l.png``, ``Masks/mask_0001-l.png``, ``bus_data.csv``; two per patient."""

    classes = ("benign", "malignant")
    _columns = ("ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Width", "Height",
                "Side", "BBOX")  # fmt: skip

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        """Write one image with the union of its masks."""
        patient, side = divmod(self._next("case") - 1, 2)
        case_id = f"bus_{patient + 1:04d}-{'lr'[side]}"
        mask = _union(masks)
        write_png(self.image_path(case_id), pixels)
        write_mask(self.folder / "Masks" / f"mask_{case_id.removeprefix('bus_')}.png", mask)
        benign = class_name == "benign"
        self.rows.append(
            (
                case_id,
                patient + 1,
                "fibroadenoma" if benign else "invasive carcinoma",
                class_name,
                3 if benign else 5,
                "phantom",
                mask.shape[1],
                mask.shape[0],
                ("left", "right")[side],
                str(_box(mask)).replace(" ", ""),
            )
        )
        return case_id

    def image_path(self, case_id: str) -> Path:
        """Return where the image of an id lies."""
        return self.folder / "Images" / f"{case_id}.png"

    def _write_table(self) -> None:
        write_text(self.folder / BUS_BRA_TABLE, _table([self._columns, *self.rows]))
        folds = [(row[0], row[3], (int(str(row[1])) - 1) % 5 + 1) for row in self.rows]
        write_text(self.folder / BUS_BRA_FOLDS, _table([("ID", "Pathology", "kFold"), *folds]))


class BusUclmWriter(LayoutWriter):
    """``images/PAAA_000.png``, masks in green and red, ``INFO.csv``; three images per patient."""

    _colours: ClassVar[dict[str, tuple[int, int, int]]] = {
        "benign": (0, 255, 0),
        "malignant": (255, 0, 0),
    }

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        """Write one image with the union of its masks."""
        patient, image = divmod(self._next("case") - 1, 3)
        letters = "".join(chr(ord("A") + patient // 26**place % 26) for place in (2, 1, 0))
        case_id = f"P{letters}_{image:03d}"
        mask = _union(masks)
        coloured = np.zeros((*mask.shape, 3), dtype=np.uint8)
        coloured[mask] = self._colours.get(class_name, (0, 0, 0))
        write_png(self.image_path(case_id), pixels)
        write_png(self.folder / "masks" / f"{case_id}.png", coloured)
        resolution = f"{mask.shape[1]}x{mask.shape[0]}"
        row = (f"{case_id}.png", resolution, class_name.capitalize(), "No", "No", "No")
        self.rows.append(row)
        return case_id

    def image_path(self, case_id: str) -> Path:
        """Return where the image of an id lies."""
        return self.folder / "images" / f"{case_id}.png"

    def _write_table(self) -> None:
        head = ("Image", "Resolution", "Label", "Doppler", "Marks", "Combined")
        # with a byte-order mark, as its authors did
        write_text(self.folder / BUS_UCLM_TABLE, "\ufeff" + _table([head, *self.rows], ";"))


class BreastLesionsUsgWriter(LayoutWriter):
    """``case001.png`` in RGBA, ``case001_tumor.png``, ``case001_other1.png``, an ``.xlsx``."""

    _columns = ("CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename",
                "Pixel_size", "BIRADS", "Classification")  # fmt: skip

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        """Write one image with the union of its masks; every fourth has another mask as well."""
        number = self._next("case")
        case_id = f"case{number:03d}"
        mask = _union(masks)
        colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        opaque = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
        write_png(self.image_path(case_id), np.concatenate([colour, opaque], axis=2))
        tumor = other = None
        if mask.any():
            tumor = f"{case_id}_tumor.png"
            write_mask(self.folder / tumor, mask)
        if number % 4 == 0:
            other = f"{case_id}_other1.png"
            write_mask(self.folder / other, np.roll(mask, mask.shape[1] // 2, axis=1))
        birads = {"normal": 1, "benign": 3, "malignant": 5}[class_name]
        self.rows.append((number, f"{case_id}.png", tumor, other, 0.0072, birads, class_name))
        return case_id

    def image_path(self, case_id: str) -> Path:
        """Return where the image of an id lies."""
        return self.folder / f"{case_id}.png"

    def _write_table(self) -> None:
        path = self.folder / "BrEaST-Lesions-USG-clinical-data.xlsx"
        path.write_bytes(_workbook([self._columns, *self.rows]))


LAYOUT_WRITERS: dict[str, type[LayoutWriter]] = {
    "busi": BusiWriter,
    "bus_bra": BusBraWriter,
    "bus_uclm": BusUclmWriter,
    "breast_lesions_usg": BreastLesionsUsgWriter,
    "folder": FolderWriter,
}
"""One writer for every reader, by the same name."""


def _union(masks: Sequence[Mask]) -> Mask:
    return np.logical_or.reduce(masks)


def _box(mask: Mask) -> list[int]:
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return [0, 0, 0, 0]
    top, left = int(rows.min()), int(columns.min())
    return [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]


def _table(rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _workbook(rows: Sequence[Sequence[object]]) -> bytes:
    """Return an ``.xlsx`` file's bytes, the same for the same rows: without the time of day."""
    import openpyxl

    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.worksheets[0].append(list(row))
    written, timeless = io.BytesIO(), io.BytesIO()
    workbook.save(written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(timeless, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:.]+Z", b"2020-01-01T00:00:00Z", content)
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, content)
    return timeless.getvalue()
