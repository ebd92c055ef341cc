"""``Prediction``: what every interface gives for one image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from busi_monai.cases import PredictionWarning
from busi_monai.io.pixel_scales import NO_SPACING, PixelScale, Spacing
from busi_monai.metrics import LesionSize, lesion_box, lesion_size

__all__ = ["Prediction", "prediction_of_item"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted for one image of (H, W) pixels.

    Attributes:
        mask: (H, W) uint8, 1 on the lesion; all 0 if the network has no mask head.
        probabilities: calibrated probability by class name, in the order of the classes; empty if
            the network has no class head.
        predicted_class: the class by the operating point's rules, or ``None``.
        lesion_pixels: number of the mask's pixels.
        lesion_fraction: the same as part of all pixels, in [0, 1].
        box: (x, y, width, height) in pixels around the mask, or ``None`` if it is empty.
        lesion_probability: (H, W) float32 in [0, 1], before the threshold.
        seconds: time taken, reading included; in a batch, the batch's time shared out.
        has_mask: whether the network has a mask head at all, so that an empty mask says something.
        scale: distances of pixels in millimetres, by region.
        image_warnings: what was decided on reading the image.
    """

    mask: NDArray[np.uint8]
    probabilities: dict[str, float]
    predicted_class: str | None
    lesion_pixels: int
    lesion_fraction: float
    box: tuple[int, int, int, int] | None
    lesion_probability: NDArray[np.float32]
    seconds: float
    has_mask: bool = True
    scale: PixelScale = NO_SPACING
    image_warnings: tuple[PredictionWarning, ...] = ()

    @cached_property
    def measured(self) -> LesionSize:
        """How large the lesion is, and why not in millimetres."""
        return lesion_size(self.mask, self.scale)

    @property
    def warnings(self) -> tuple[PredictionWarning, ...]:
        """What to know of the image and of the sizes."""
        return (*self.image_warnings, *self.measured.warnings)

    @property
    def spacing_mm(self) -> Spacing | None:
        """(row, column) distance of pixels in mm where the largest region of the mask lies.

        ``None`` where it is unknown; of an empty mask the only one of the image.
        """
        return self.measured.spacing_mm

    @property
    def confidence(self) -> float | None:
        """Probability of the predicted class, or ``None`` without one."""
        return None if self.predicted_class is None else self.probabilities[self.predicted_class]

    @property
    def lesion_mm2(self) -> float | None:
        """Area of the mask in square millimetres, or ``None`` where a region's scale is unknown."""
        return self.measured.area_mm2

    @property
    def diameters_px(self) -> tuple[float, float] | None:
        """Long and short axis of the largest region in pixels, or ``None`` for an empty mask."""
        return self.measured.diameters_px

    @property
    def diameters_mm(self) -> tuple[float, float] | None:
        """The same in millimetres, or ``None`` for an empty mask or an unknown scale."""
        return self.measured.diameters_mm

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pixels as plain JSON values."""
        return {
            "predicted_class": self.predicted_class,
            "probabilities": self.probabilities,
            "lesion_pixels": self.lesion_pixels,
            "lesion_fraction": self.lesion_fraction,
            "box": None if self.box is None else list(self.box),
            "spacing_mm": _listed(self.spacing_mm),
            "lesion_mm2": self.lesion_mm2,
            "diameters_px": _listed(self.diameters_px),
            "diameters_mm": _listed(self.diameters_mm),
            "size": list(self.mask.shape),
            "seconds": self.seconds,
            "warnings": [asdict(warning) for warning in self.warnings],
        }


def prediction_of_item(
    item: Mapping[str, Any], classes: Iterable[str], seconds: float
) -> Prediction:
    """Return the prediction that an item holds after ``prediction_postprocessing``.

    Args:
        item: with ``pred``, ``pred_seg``, and if there is a class head ``pred_cls`` and
            ``predicted_class``; without a mask head, ``image`` tells the size.
        classes: class names in the order of ``pred_cls``.
        seconds: to be told with the prediction.
    """
    has_mask = "pred" in item and "pred_seg" in item
    if has_mask:
        mask = _array(item["pred"]).astype(np.uint8)
        probability = _array(item["pred_seg"])[0].astype(np.float32)
    else:
        height, width = (int(side) for side in item["image"].meta["spatial_shape"][:2])
        mask = np.zeros((height, width), dtype=np.uint8)
        probability = np.zeros((height, width), dtype=np.float32)
    meta = getattr(item.get("image"), "meta", {})
    mask, probability = (_on_canvas(pixels, meta.get("canvas")) for pixels in (mask, probability))
    probabilities: dict[str, float] = {}
    if "pred_cls" in item:
        values = _array(item["pred_cls"]).astype(float)
        probabilities = {name: float(p) for name, p in zip(classes, values, strict=True)}
    lesion_pixels = int(mask.sum())
    return Prediction(
        mask=mask,
        probabilities=probabilities,
        predicted_class=item["predicted_class"] if probabilities else None,
        lesion_pixels=lesion_pixels,
        lesion_fraction=lesion_pixels / mask.size,
        box=lesion_box(mask),
        lesion_probability=probability,
        seconds=seconds,
        has_mask=has_mask,
        scale=PixelScale.from_json(meta["scale"]) if "scale" in meta else NO_SPACING,
        image_warnings=tuple(
            PredictionWarning(**each) for each in json.loads(meta.get("warnings", "[]"))
        ),
    )


def _listed(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else list(values)


def _on_canvas(pixels: NDArray[Any], canvas: Any) -> NDArray[Any]:
    """Return (H, W) pixels of a part of an image laid on the whole, which is 0 elsewhere."""
    if canvas is None:
        return pixels
    top, left, height, width = (int(value) for value in canvas)
    if pixels.shape == (height, width):
        return pixels
    whole = np.zeros((height, width), dtype=pixels.dtype)
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return whole


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value)
