"""Items to batches that MONAI's engines can take apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor, list_data_collate
from torch.nn.functional import pad

__all__ = ["collate_items"]

MISSING = -1


def collate_items(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate items into a batch that ``decollate_batch`` splits back into the same items.

    MONAI's ``decollate_batch`` takes a list of (1, H, W) tensors, of lists or of dictionaries
    apart along the wrong axis. So:

    - tensors and numbers are stacked by ``list_data_collate``, meta and history kept;
    - ``native_label``, of a different size in every item, becomes one int8 tensor (N, 1, H, W),
      padded with −1 at the right and below, all −1 for an item without mask;
      ``prediction_postprocessing`` takes the padding off again;
    - ``class_label`` is −1 for an item without class;
    - ``spacing_mm`` becomes an (N, 2) float64 tensor, NaN where there is none;
    - strings and ``None`` become lists;
    - other keys, and those that only some items have, are left out.
    """
    batch: dict[str, Any] = {}
    shared = [key for key in items[0] if all(key in item for item in items)]
    for key in shared:
        values = [item[key] for item in items]
        if key in {"native_label", "class_label", "spacing_mm"}:
            continue
        if all(isinstance(value, (torch.Tensor, int, float)) for value in values):
            batch[key] = list_data_collate([{key: value} for value in values])[key]
        elif all(value is None or isinstance(value, str) for value in values):
            batch[key] = values
    if any("native_label" in item for item in items):
        batch["native_label"] = _padded([item.get("native_label") for item in items])
    if any(item.get("class_label") is not None for item in items):
        batch["class_label"] = torch.tensor([_class_label(item) for item in items])
    if any("spacing_mm" in item for item in items):
        nowhere = (float("nan"), float("nan"))
        spacings = [tuple(item.get("spacing_mm") or nowhere) for item in items]
        batch["spacing_mm"] = torch.tensor(spacings, dtype=torch.float64)
    return batch


def _class_label(item: Mapping[str, Any]) -> int:
    label = item.get("class_label")
    return MISSING if label is None else int(label)


def _padded(labels: Sequence[torch.Tensor | None]) -> torch.Tensor:
    present = [label for label in labels if label is not None]
    height = max(label.shape[-2] for label in present)
    width = max(label.shape[-1] for label in present)
    padded = []
    for label in labels:
        if label is None:
            padded.append(torch.full((1, height, width), MISSING, dtype=torch.int8))
            continue
        plain = label.as_tensor() if isinstance(label, MetaTensor) else label
        margins = (0, width - plain.shape[-1], 0, height - plain.shape[-2])
        padded.append(pad(plain.to(torch.int8), margins, value=MISSING))
    return torch.stack(padded)
