"""From the network's logits to a mask at native size and a class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, Transform

from busi_monai.imaging import decide
from busi_monai.settings import InferenceSettings
from busi_monai.transforms.batches import plain

__all__ = ["MONAILabelResultd", "prediction_postprocessing"]


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
    to_native = Invertd(
        "pred_seg",
        transform=Compose(resize),
        orig_keys="image",
        nearest_interp=False,
        allow_missing_keys=True,
    )
    steps = [_Probabilitiesd(settings.temperature), to_native, _Decided(settings), _NativeLabeld()]
    return Compose(steps, log_stats=False)


class _Probabilitiesd(Transform):
    """Turn ``seg`` logits into ``pred_seg`` (sigmoid) and ``cls`` logits into ``pred_cls``.

    Class logits are divided by the temperature before the softmax (Guo et al., ICML 2017).
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
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


class _Decided(Transform):
    """Decide mask and class of the probabilities, and make them agree where the rule is on."""

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        probability = probabilities = None
        if "pred_seg" in item:
            item["pred_seg"] = _values(item["pred_seg"])
            probability = item["pred_seg"][0].numpy()
        if "pred_cls" in item:
            probabilities = item["pred_cls"].tolist()
        mask, predicted_class = decide(probability, probabilities, self.settings)
        if mask is not None:
            item["pred"] = torch.from_numpy(mask)
        if predicted_class is not None:
            item["predicted_class"] = predicted_class
        return item


class _NativeLabeld(Transform):
    """Give a ``native_label`` that ``collate_items`` padded its own size back.

    One of all −1 stood for a missing mask in its batch and becomes ``None``: MONAI's engines keep
    the batch's value of a key that a transform removes.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        if item.get("native_label") is not None:
            height, width = (int(side) for side in item["image"].meta["spatial_shape"])
            label = plain(item["native_label"])[:, :height, :width]
            item["native_label"] = None if (label < 0).any() else label.to(torch.uint8)
        return item


class MONAILabelResultd(Transform):
    """Put class and probabilities into ``result``, and the mask the way round that is written.

    For the end of the postprocessing of MONAI Label's stock ``monaibundle`` app: it answers with
    ``result`` and writes ``pred`` through ITK, whose first axis are the columns. It would resize
    ``pred`` to the size of ``image``, which it has already: ``image`` is left out.

    Args:
        classes: names in the order of ``pred_cls``.

    Examples:
        >>> item = {"pred_cls": torch.tensor([0.25, 0.75]), "predicted_class": "malignant"}
        >>> told = MONAILabelResultd(["benign", "malignant"])(item)["result"]
        >>> told["predicted_class"], told["probabilities"]
        ('malignant', {'benign': 0.25, 'malignant': 0.75})
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item after ``prediction_postprocessing`` as the stock app takes it.

        ``pred`` becomes (W, H) uint8; ``result`` holds plain JSON values.
        """
        item = dict(data)
        result = dict(item.get("result") or {})
        if "pred_cls" in item:
            values = [float(value) for value in item["pred_cls"]]
            result["probabilities"] = dict(zip(self.classes, values, strict=True))
            result["predicted_class"] = item["predicted_class"]
        if "pred" in item:
            mask = torch.as_tensor(item["pred"])
            result["lesion_pixels"] = int(mask.count_nonzero())
            item["pred"] = mask.T.contiguous()
            item.pop("image", None)
        item["result"] = result
        return item


def _values(tensor: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(plain(tensor)).detach().float().cpu()
