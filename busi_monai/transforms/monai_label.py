"""What MONAI Label's stock ``monaibundle`` app needs at the end of a bundle's postprocessing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform

__all__ = ["MONAILabelResultd"]


class MONAILabelResultd(Transform):
    """Put class and probabilities into ``result``, and the mask the way round that is written.

    The stock app answers with ``result`` and writes ``pred`` through ITK, whose first axis are the
    columns. It would resize ``pred`` to the size of ``image``, which it has already: ``image`` is
    left out.

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

        Args:
            data: with ``pred`` (H, W), and ``pred_cls`` and ``predicted_class`` where there is a
                class head.

        Returns:
            The item with ``pred`` (W, H) uint8 and plain JSON values in ``result``.
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
