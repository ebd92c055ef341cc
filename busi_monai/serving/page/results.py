"""What the page shows of an upload and lets one download, made outside of the event loop."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busi_monai.inference import (
    ModelIdentity,
    check_dicom_support,
    draw_overlay,
    prediction_cells,
    prediction_columns,
    prediction_row,
    segmentation_object,
    source_reference,
    writing_objects,
)
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile
from busi_monai.plots.palette import PREDICTED_OUTLINE
from busi_monai.serving.answers import ImageResult, entry_of, png_bytes
from busi_monai.serving.service import PredictionService
from busi_monai.serving.uploads import Upload, images_of

__all__ = ["ShownFrame", "ShownUpload", "data_url", "heat_png"]

_WIDEST_SHOWN = 1600


@dataclass(frozen=True)
class ShownFrame:
    """One predicted image of an upload, without what can be made again.

    Attributes:
        entry: as REST tells it.
        row: as ``predictions.csv`` tells it.
        image: to be read again.
        mask_png: (H, W), 0 and 255.
    """

    entry: dict[str, Any]
    row: dict[str, Any]
    image: ImageFile
    mask_png: bytes

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W), 1 on the lesion."""
        return (np.asarray(Image.open(io.BytesIO(self.mask_png))) > 0).astype(np.uint8)

    def shown(self, pixels: NDArray[np.float32]) -> tuple[bytes, bytes]:
        """Return PNG files of the image, and of the outline on nothing, to be laid on it."""
        mask = self.mask
        scale = min(1.0, _WIDEST_SHOWN / max(pixels.shape))
        if scale < 1:
            size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        outline = np.zeros((*mask.shape, 4), dtype=np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        thickness = max(1, round(min(mask.shape) / 250))
        cv2.drawContours(outline, contours, -1, (*PREDICTED_OUTLINE, 255), thickness)
        grey = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        return png_bytes(grey), png_bytes(outline)

    def overlay_png(self, pixels: NDArray[np.float32]) -> bytes:
        """Return the image with outline and caption, as ``busi-monai predict`` writes it."""
        drawn = draw_overlay(
            pixels,
            self.mask,
            predicted_class=self.entry["predicted_class"],
            confidence=self.entry["confidence"],
        )
        return png_bytes(drawn)


@dataclass(frozen=True)
class ShownUpload:
    """An upload with its predicted images.

    Attributes:
        upload: the file.
        frames: its predicted images.
        summary: place in ``frames`` of the one that stands for a loop.
        total: number of frames in the file.
        classes: ordered class names.
    """

    upload: Upload
    frames: tuple[ShownFrame, ...]
    summary: int
    total: int
    classes: tuple[str, ...]

    @classmethod
    def of(
        cls, upload: Upload, results: Sequence[ImageResult], service: PredictionService
    ) -> ShownUpload:
        """Keep of some results what the page needs; at least one must be a prediction."""
        found = images_of(upload, service.limits, service.decoding)
        classes = service.predictor.settings.classes
        images = dict(found.images)
        ranked = [
            (result, result.prediction) for result in results if result.prediction is not None
        ]
        frames = tuple(
            ShownFrame(
                entry_of(result),
                prediction_row(result.id, "", prediction, classes, frame=result.frame),
                images[result.id],
                png_bytes(np.where(prediction.mask > 0, np.uint8(255), np.uint8(0))),
            )
            for result, prediction in ranked
        )
        best = max(range(len(ranked)), key=lambda place: ranked[place][1].rank)
        return cls(upload, frames, best, found.frames, classes)

    @property
    def is_dicom(self) -> bool:
        """Whether a DICOM object can refer to it."""
        return self.upload.content[128:132] == b"DICM"

    def size(self) -> int:
        """Return the bytes that it takes in memory."""
        return len(self.upload.content) + sum(len(frame.mask_png) for frame in self.frames)

    def csv(self) -> bytes:
        """Return the rows of ``predictions.csv``."""
        stream = io.StringIO(newline="")
        columns = prediction_columns(self.classes)
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(prediction_cells(frame.row) for frame in self.frames)
        return stream.getvalue().encode()

    def dicom_seg(self, model: ModelIdentity) -> bytes:
        """Return a DICOM segmentation that refers to the upload.

        Raises:
            ImageReadError: if it lacks the UIDs to refer to.
            InputError: if highdicom is not installed.
        """
        check_dicom_support()
        source = ImageBytes(self.upload.content, self.upload.name)
        stream = io.BytesIO()
        with writing_objects(source):
            segmentation_object(
                source_reference(source),
                {frame.image.frame or 0: frame.mask for frame in self.frames},
                model,
                of_loop=self.frames[0].image.frame is not None,
            ).save_as(stream)
        return stream.getvalue()


def heat_png(heat: NDArray[np.float32]) -> bytes:
    """Return a heat map to be laid on an image: red, the hotter the less transparent."""
    scale = min(1.0, _WIDEST_SHOWN / max(heat.shape))
    if scale < 1:
        size = (round(heat.shape[1] * scale), round(heat.shape[0] * scale))
        heat = cv2.resize(heat, size, interpolation=cv2.INTER_AREA)
    shades = np.zeros((*heat.shape, 4), dtype=np.uint8)
    shades[..., 0], shades[..., 1] = 230, 40
    shades[..., 3] = np.round(np.clip(heat, 0, 1) * 150).astype(np.uint8)
    return png_bytes(shades)


def data_url(png: bytes) -> str:
    """Return a PNG file as an address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
