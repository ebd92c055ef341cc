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

import cv2
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
        images: folder of the images.
        columns: of the layout's table, if it has one, whose rows are ``rows``.
    """

    classes: ClassVar[tuple[str, ...]] = CLASSES
    many_masks: ClassVar[bool] = False
    images: ClassVar[str] = "images"
    columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.rows: list[tuple[object, ...]] = []

    @abstractmethod
    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        """Write one image, (H, W) or (H, W, 3), with its (H, W) masks, and return its id."""

    def image_path(self, case_id: str) -> Path:
        """Return where the image of an id lies."""
        return self.folder / self.images / f"{case_id}.png"

    def finish(self) -> None:  # noqa: B027
        """Write the table of the rows that were added, if the layout has one."""

    def _next(self, kind: str = "case") -> int:
        self.counts[kind] += 1
        return self.counts[kind]


class BusiWriter(LayoutWriter):
    """``benign/benign (1).png``, ``benign (1)_mask.png``, ``benign (1)_mask_1.png``."""

    many_masks = True

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        case_id = f"{class_name} ({self._next(class_name)})"
        write_png(self.image_path(case_id), pixels)
        for index, mask in enumerate(masks):
            suffix = f"_mask_{index}" if index else "_mask"
            write_mask(self.folder / class_name / f"{case_id}{suffix}.png", mask)
        return case_id

    def image_path(self, case_id: str) -> Path:
        return self.folder / case_id.split(" ", maxsplit=1)[0] / f"{case_id}.png"


class FolderWriter(LayoutWriter):
    """``images/case_0001.png``, ``masks/case_0001.png``, ``labels.csv``."""

    columns = ("image", "label")

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        case_id = f"case_{self._next():04d}"
        write_png(self.image_path(case_id), pixels)
        write_mask(self.folder / "masks" / f"{case_id}.png", np.logical_or.reduce(masks))
        self.rows.append((f"{case_id}.png", class_name))
        return case_id

    def finish(self) -> None:
        write_text(self.folder / "labels.csv", _table([self.columns, *self.rows]))


class BusBraWriter(LayoutWriter):
    """``Images/bus_0001-l.png``, ``Masks/mask_0001-l.png``, ``bus_data.csv``; two per patient."""

    classes = ("benign", "malignant")
    images = "Images"
    columns = ("ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Width", "Height",
               "Side", "BBOX")  # fmt: skip

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        patient, side = divmod(self._next() - 1, 2)
        case_id = f"bus_{patient + 1:04d}-{'lr'[side]}"
        mask = np.logical_or.reduce(masks)
        height, width = mask.shape
        write_png(self.image_path(case_id), pixels)
        write_mask(self.folder / "Masks" / f"mask_{case_id.removeprefix('bus_')}.png", mask)
        histology, birads = {"benign": ("fibroadenoma", 3)}.get(
            class_name, ("invasive carcinoma", 5)
        )
        box = str(list(cv2.boundingRect(mask.astype(np.uint8)))).replace(" ", "")
        self.rows.append((case_id, patient + 1, histology, class_name, birads, "phantom", width,
                          height, ("left", "right")[side], box))  # fmt: skip
        return case_id

    def finish(self) -> None:
        write_text(self.folder / BUS_BRA_TABLE, _table([self.columns, *self.rows]))
        folds = [(row[0], row[3], (int(str(row[1])) - 1) % 5 + 1) for row in self.rows]
        table = _table([("ID", "Pathology", "kFold"), *folds])
        write_text(self.folder / BUS_BRA_FOLDS, table)


class BusUclmWriter(LayoutWriter):
    """``images/PAAA_000.png``, masks in green and red, ``INFO.csv``; three images per patient."""

    columns = ("Image", "Resolution", "Label", "Doppler", "Marks", "Combined")

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        patient, image = divmod(self._next() - 1, 3)
        letters = "".join(chr(ord("A") + patient // 26**place % 26) for place in (2, 1, 0))
        case_id = f"P{letters}_{image:03d}"
        mask = np.logical_or.reduce(masks)
        coloured = np.zeros((*mask.shape, 3), dtype=np.uint8)
        coloured[mask] = (0, 255, 0) if class_name == "benign" else (255, 0, 0)
        write_png(self.image_path(case_id), pixels)
        write_png(self.folder / "masks" / f"{case_id}.png", coloured)
        resolution = f"{mask.shape[1]}x{mask.shape[0]}"
        row = (f"{case_id}.png", resolution, class_name.capitalize(), "No", "No", "No")
        self.rows.append(row)
        return case_id

    def finish(self) -> None:
        # with a byte-order mark, as its authors did
        table = "\ufeff" + _table([self.columns, *self.rows], ";")
        write_text(self.folder / BUS_UCLM_TABLE, table)


class BreastLesionsUsgWriter(LayoutWriter):
    """``case001.png`` in RGBA, ``case001_tumor.png``, ``case001_other1.png``, an ``.xlsx``.

    Every fourth image has another mask as well.
    """

    images = ""
    columns = ("CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename",
               "Pixel_size", "BIRADS", "Classification")  # fmt: skip

    def add(self, class_name: str, pixels: Pixels, masks: Sequence[Mask]) -> str:
        number = self._next()
        case_id = f"case{number:03d}"
        mask = np.logical_or.reduce(masks)
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

    def finish(self) -> None:
        path = self.folder / "BrEaST-Lesions-USG-clinical-data.xlsx"
        path.write_bytes(_workbook([self.columns, *self.rows]))


LAYOUT_WRITERS: dict[str, type[LayoutWriter]] = {
    "busi": BusiWriter,
    "bus_bra": BusBraWriter,
    "bus_uclm": BusUclmWriter,
    "breast_lesions_usg": BreastLesionsUsgWriter,
    "folder": FolderWriter,
}
"""One writer for every reader, by the same name."""


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
