"""From the network's logits to a mask at native size and a class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, Transform

from busi_monai.cases import CLASSES
from busi_monai.settings import Consistency, InferenceSettings

__all__ = [
    "CalibratedProbabilitiesd",
    "DecideClassd",
    "DecideMaskd",
    "MaskClassConsistencyd",
    "NativeLabeld",
    "choose_class",
    "prediction_postprocessing",
]

NORMAL, MALIGNANT = CLASSES[0], CLASSES[2]
DEFAULT_MALIGNANT_THRESHOLD = 0.5


def prediction_postprocessing(settings: InferenceSettings, preprocessing: Compose) -> Compose:
    """Return what every network output goes through, one decollated item at a time.

    Args:
        settings: classes, temperature, thresholds and the consistency rule.
        preprocessing: the ``prediction_preprocessing`` that made the item's ``image``; its resize
            is inverted on the probabilities, bilinearly, before they are thresholded.

    Returns:
        A transform of items with ``image`` (``MetaTensor`` with history) and ``seg`` (1, h, w)
        and/or ``cls`` (C,) logits. With ``seg`` it adds ``pred_seg``: (1, H, W) float32 lesion
        probability at native size, and ``pred``: (H, W) uint8 mask of 0 and 1; with ``cls``
        ``pred_cls``: (C,) float32 calibrated probabilities, and ``predicted_class``: str. Where a
        head is absent, so are its results. All on the CPU. A ``native_label`` that was padded for
        its batch gets its own size back, and is ``None`` where the item has no mask.

    Raises:
        ValueError: if ``preprocessing`` has nothing to invert.
        RuntimeError: (when called) by MONAI, from the ``ValueError`` of an image that has lost its
            history.
    """
    resize = [
        step for step in preprocessing.flatten().transforms if isinstance(step, InvertibleTransform)
    ]
    if not resize:
        raise ValueError("preprocessing must hold an invertible transform, such as FitToNetworkd")
    steps: list[Transform] = [
        CalibratedProbabilitiesd(settings.temperature),
        Invertd(
            "pred_seg",
            transform=Compose(resize),
            orig_keys="image",
            nearest_interp=False,
            allow_missing_keys=True,
        ),
        DecideMaskd(settings.mask_threshold),
        DecideClassd(settings.classes, settings.class_thresholds),
    ]
    if settings.consistency.enabled:
        steps.append(
            MaskClassConsistencyd(
                settings.classes,
                settings.consistency,
                settings.class_thresholds.get(MALIGNANT, DEFAULT_MALIGNANT_THRESHOLD),
            )
        )
    steps.append(NativeLabeld())
    return Compose(steps, log_stats=False)


class CalibratedProbabilitiesd(Transform):
    """Turn ``seg`` logits into ``pred_seg`` (sigmoid) and ``cls`` logits into ``pred_cls``.

    Args:
        temperature: the class logits are divided by it before the softmax (Guo et al., ICML 2017).
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with float32 probabilities on the CPU, at network size."""
        item = dict(data)
        if "seg" in item:
            image = item.get("image")
            if not (isinstance(image, MetaTensor) and image.applied_operations):
                raise ValueError(
                    "image must be a MetaTensor with its history to go back to native size; "
                    "a PersistentDataset needs track_meta=True"
                )
            item["pred_seg"] = MetaTensor(torch.sigmoid(_values(item["seg"])))
        if "cls" in item:
            item["pred_cls"] = torch.softmax(_values(item["cls"]) / self.temperature, dim=0)
        return item


class DecideMaskd(Transform):
    """Threshold ``pred_seg`` (1, H, W) to ``pred``: (H, W) uint8, 1 from the threshold on."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its mask, where it has a lesion probability."""
        item = dict(data)
        if "pred_seg" in item:
            item["pred_seg"] = _values(item["pred_seg"])
            item["pred"] = (item["pred_seg"][0] >= self.threshold).to(torch.uint8)
        return item


class DecideClassd(Transform):
    """Choose ``predicted_class`` from ``pred_cls`` by ``choose_class``."""

    def __init__(self, classes: Sequence[str], thresholds: Mapping[str, float]) -> None:
        self.classes = tuple(classes)
        self.thresholds = dict(thresholds)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its class, where it has class probabilities."""
        item = dict(data)
        if "pred_cls" in item:
            item["predicted_class"] = choose_class(
                item["pred_cls"].tolist(), self.classes, self.thresholds
            )
        return item


class MaskClassConsistencyd(Transform):
    """Make mask and class agree; probabilities are never altered.

    A lesion smaller than ``min_lesion_fraction`` of the image, or none at all, or a p_normal from
    ``normal_threshold`` on makes the predicted class normal; a predicted normal gets an empty mask.
    While p_malignant is at or above its operating threshold nothing is changed: neither a mask
    erased nor a class made normal.
    Items without mask or class, and systems without a normal class, stay as they are.

    Args:
        classes: the system's ordered classes.
        rule: the areas and switches; whether it is ``enabled`` is the caller's question.
        malignant_threshold: probability from which a malignant finding must not be touched.
    """

    def __init__(
        self,
        classes: Sequence[str],
        rule: Consistency,
        malignant_threshold: float = DEFAULT_MALIGNANT_THRESHOLD,
    ) -> None:
        self.classes = tuple(classes)
        self.rule = rule
        self.malignant_threshold = malignant_threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with ``pred`` and ``predicted_class`` in agreement."""
        item = dict(data)
        if NORMAL not in self.classes or not {"pred", "predicted_class"} <= set(item):
            return item
        if self._may_be_malignant(item["pred_cls"]):
            return item
        fraction = float(item["pred"].count_nonzero()) / item["pred"].numel()
        p_normal = float(item["pred_cls"][self.classes.index(NORMAL)])
        chosen, emptied = self.rule.applied(item["predicted_class"], fraction, p_normal)
        item["predicted_class"] = chosen
        if emptied:
            item["pred"] = torch.zeros_like(item["pred"])
        return item

    def _may_be_malignant(self, probabilities: torch.Tensor) -> bool:
        if MALIGNANT not in self.classes:
            return False
        return float(probabilities[self.classes.index(MALIGNANT)]) >= self.malignant_threshold


class NativeLabeld(Transform):
    """Give a ``native_label`` that ``collate_items`` padded its own size back.

    One of all −1 stood for a missing mask in its batch and becomes ``None``: MONAI's engines keep
    the batch's value of a key that a transform removes.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with ``native_label`` as uint8 (1, H, W), or ``None``."""
        item = dict(data)
        if item.get("native_label") is None:
            return item
        height, width = (int(side) for side in item["image"].meta["spatial_shape"])
        label = _plain(item["native_label"])[:, :height, :width]
        missing = bool((label < 0).any())
        item["native_label"] = None if missing else label.to(torch.uint8)
        return item


def choose_class(
    probabilities: Sequence[float], classes: Sequence[str], thresholds: Mapping[str, float]
) -> str:
    """Return the predicted class.

    A class with a threshold is predicted exactly from that probability on, whatever the others
    are; if several reach theirs, malignant goes before benign before normal. If none does, the most
    probable of the classes without a threshold is taken, or of all where each has one.

    Args:
        probabilities: (C,) calibrated probabilities.
        classes: C class names in the order of ``CLASSES``.
        thresholds: threshold in [0, 1] by class name; empty for the most probable class.

    Examples:
        >>> names = ("normal", "benign", "malignant")
        >>> choose_class([0.1, 0.6, 0.3], names, {})
        'benign'
        >>> choose_class([0.1, 0.6, 0.3], names, {"malignant": 0.3})
        'malignant'
    """
    by_class = dict(zip(classes, probabilities, strict=True))
    for name in reversed(list(by_class)):
        if name in thresholds and by_class[name] >= thresholds[name]:
            return name
    free = [name for name in by_class if name not in thresholds] or list(by_class)
    return max(free, key=by_class.__getitem__)


def _values(tensor: torch.Tensor) -> torch.Tensor:
    return _plain(tensor).detach().float().cpu()


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
