"""What is told of a prediction: the entries of an answer, and their warnings."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busi_monai.cases import NORMAL, PredictionWarning
from busi_monai.inference import Prediction
from busi_monai.io.pixel_scales import NO_SPACING
from busi_monai.serving.problems import ApiError

__all__ = ["ImageResult", "entry_of", "png_bytes", "warnings_of"]


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What came of one image.

    Attributes:
        id: of its entry.
        file: the upload it is of.
        frame: number of the frame, counted from 0; ``None`` for a still.
        prediction: what was predicted, or ``None``.
        problem: why nothing was.
        warnings: what to know of it.
    """

    id: str
    file: str
    frame: int | None = None
    prediction: Prediction | None = None
    problem: ApiError | None = None
    warnings: tuple[PredictionWarning, ...] = ()


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W), (H, W, 3) or (H, W, 4) uint8 pixels as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def warnings_of(prediction: Prediction, image_size: tuple[int, int]) -> list[PredictionWarning]:
    """Return what to know of a prediction."""
    found = list(prediction.warnings)
    if prediction.scale == NO_SPACING:
        message = "the distance of the pixels is not known, so that sizes are in pixels only"
        found.append(PredictionWarning("no_spacing", message))
    height, width = prediction.mask.shape
    if height < image_size[0] / 2 or width < image_size[1] / 2:
        message = (
            f"{width}×{height} pixels are less than half of the network's {image_size[1]}×"
            f"{image_size[0]} and were enlarged"
        )
        found.append(PredictionWarning("small_image", message))
    if prediction.has_mask and prediction.predicted_class is not None:
        says_normal = prediction.predicted_class == NORMAL
        if says_normal and prediction.lesion_pixels:
            message = "a lesion is outlined, but the class is normal"
            found.append(PredictionWarning("mask_without_class", message))
        if not says_normal and not prediction.lesion_pixels:
            message = f"the class is {prediction.predicted_class}, but no lesion is outlined"
            found.append(PredictionWarning("class_without_mask", message))
    return found


def entry_of(result: ImageResult, *, with_mask: bool = False) -> dict[str, Any]:
    """Return the entry of an answer as plain JSON values."""
    prediction = result.prediction
    if prediction is None:
        problem = result.problem or ApiError("internal", "nothing was predicted", result.file)
        return {"id": result.id, "frame": _counted(result.frame), **problem.as_dict()}
    told = prediction.as_dict()
    entry: dict[str, Any] = {
        "id": result.id,
        "frame": _counted(result.frame),
        "predicted_class": prediction.predicted_class,
        "confidence": prediction.confidence,
        "probabilities": told["probabilities"],
        "lesion": {
            "pixels": prediction.lesion_pixels,
            "fraction": prediction.lesion_fraction,
            "box": told["box"],
            "diameters_px": told["diameters_px"],
            "mm2": told["lesion_mm2"],
            "diameters_mm": told["diameters_mm"],
        },
        "size": told["size"],
        "spacing_mm": told["spacing_mm"],
        "warnings": [asdict(warned) for warned in result.warnings],
        "seconds": round(prediction.seconds, 6),
    }
    if with_mask:
        mask = png_bytes(np.where(prediction.mask > 0, np.uint8(255), np.uint8(0)))
        entry["mask"] = base64.b64encode(mask).decode()
    return entry


def _counted(frame: int | None) -> int | None:
    return None if frame is None else frame + 1
