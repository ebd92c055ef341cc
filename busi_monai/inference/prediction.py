"""``Prediction``: what every interface gives for one image, and how much several disagree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import MALIGNANT, PredictionWarning
from busi_monai.imaging import LesionSize, laid_on_canvas, lesion_size
from busi_monai.io.pixel_scales import NO_SPACING, PixelScale, Spacing
from busi_monai.metrics import dice, lesion_box

__all__ = ["Prediction", "Uncertainty", "disagreement", "prediction_of_item"]


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
        has_mask: whether the network has a mask head, so that an empty mask says something.
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

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        lesion_probability: NDArray[np.float32] | None,
        mask: NDArray[np.uint8] | None,
        probabilities: dict[str, float],
        predicted_class: str | None,
        *,
        canvas: Sequence[int] | None,
        scale: PixelScale,
        image_warnings: tuple[PredictionWarning, ...],
        seconds: float = 0.0,
    ) -> Prediction:
        """Return the prediction of an image, or of the part of it that was read.

        Args:
            shape: (H, W) of what was read.
            lesion_probability: (H, W), ``None`` without a mask head.
            mask: (H, W) of 0 and 1, ``None`` without a mask head.
            probabilities: by class name; empty without a class head.
            predicted_class: ``None`` without a class head.
            canvas: place of what was read in the whole; see ``laid_on_canvas``.
            scale: of the whole image.
            image_warnings: what was decided on reading.
            seconds: to be told with the prediction.
        """
        has_mask = mask is not None and lesion_probability is not None
        if mask is None or lesion_probability is None:
            mask, lesion_probability = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
        if canvas is not None:
            mask = laid_on_canvas(mask, canvas)
            lesion_probability = laid_on_canvas(lesion_probability, canvas)
        lesion_pixels = int(mask.sum())
        return cls(
            mask=mask,
            probabilities=probabilities,
            predicted_class=predicted_class,
            lesion_pixels=lesion_pixels,
            lesion_fraction=lesion_pixels / mask.size,
            box=lesion_box(mask),
            lesion_probability=lesion_probability,
            seconds=seconds,
            has_mask=has_mask,
            scale=scale,
            image_warnings=image_warnings,
        )

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
    def rank(self) -> tuple[bool, float, int]:
        """What the representative frame of a loop is the maximum of; the earlier one where equal.

        A frame with a lesion goes before one without, then the probability of malignancy counts,
        then the size of the lesion.
        """
        malignant = self.probabilities.get(MALIGNANT, 0.0)
        return self.lesion_pixels > 0, malignant, self.lesion_pixels

    @property
    def lesion_mm2(self) -> float | None:
        """Area of the mask in mm², or ``None`` where a region's scale is unknown."""
        return self.measured.area_mm2

    @property
    def diameters_px(self) -> tuple[float, float] | None:
        """Long and short axis of the largest region in px, or ``None`` for an empty mask."""
        return self.measured.diameters_px

    @property
    def diameters_mm(self) -> tuple[float, float] | None:
        """The same in mm, or ``None`` for an empty mask or an unknown scale."""
        return self.measured.diameters_mm

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pixels as plain JSON values."""
        return {
            "predicted_class": self.predicted_class,
            "probabilities": self.probabilities,
            "lesion_pixels": self.lesion_pixels,
            "lesion_fraction": self.lesion_fraction,
            "box": self.box and list(self.box),
            "spacing_mm": self.spacing_mm and list(self.spacing_mm),
            "lesion_mm2": self.lesion_mm2,
            "diameters_px": self.diameters_px and list(self.diameters_px),
            "diameters_mm": self.diameters_mm and list(self.diameters_mm),
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
    meta = getattr(item.get("image"), "meta", {})
    probability = mask = None
    if "pred" in item and "pred_seg" in item:
        mask = np.asarray(item["pred"]).astype(np.uint8)
        probability = np.asarray(item["pred_seg"])[0].astype(np.float32)
        size: tuple[int, ...] = mask.shape
    else:
        size = tuple(int(side) for side in meta["spatial_shape"][:2])
    probabilities = {}
    if "pred_cls" in item:
        values = zip(classes, np.asarray(item["pred_cls"]).astype(float), strict=True)
        probabilities = {name: float(value) for name, value in values}
    return Prediction.of(
        size,
        probability,
        mask,
        probabilities,
        item["predicted_class"] if probabilities else None,
        canvas=meta.get("canvas"),
        scale=PixelScale.from_json(meta["scale"]) if "scale" in meta else NO_SPACING,
        image_warnings=tuple(
            PredictionWarning(**each) for each in json.loads(meta.get("warnings", "[]"))
        ),
        seconds=seconds,
    )


@dataclass(frozen=True)
class Uncertainty:
    """Disagreement of several predictions of one image.

    Attributes:
        class_disagreement: greatest range of a class's probability, in [0, 1]; ``None`` without
            class head.
        mask_disagreement: 1 − mean Dice of all pairs of masks, in [0, 1]; two empty masks agree.
            ``None`` without mask head.
        views: number of predictions compared.
    """

    class_disagreement: float | None
    mask_disagreement: float | None
    views: int

    @property
    def score(self) -> float:
        """Mean of what is known, in [0, 1]: what images are ranked by for annotation."""
        known = [v for v in (self.class_disagreement, self.mask_disagreement) if v is not None]
        return sum(known) / len(known) if known else 0.0


def disagreement(views: Sequence[Prediction]) -> Uncertainty:
    """Return how much predictions of one image disagree.

    Args:
        views: at least two predictions of the same image, as from ``Predictor.views``.

    Raises:
        ValueError: if there are fewer.
    """
    if len(views) < 2:
        raise ValueError(f"disagreement needs at least two predictions, got {len(views)}")
    ranges = [
        max(view.probabilities[name] for view in views)
        - min(view.probabilities[name] for view in views)
        for name in views[0].probabilities
    ]
    pairs = [dice(first.mask, second.mask) for first, second in combinations(views, 2)]
    return Uncertainty(
        class_disagreement=max(ranges, default=None),
        mask_disagreement=1 - sum(pairs) / len(pairs) if views[0].has_mask else None,
        views=len(views),
    )
