"""Items to batches that MONAI's engines can take apart again, and batches to the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor, list_data_collate
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["MISSING_CLASS", "collate_items", "plain", "prepare_batch", "prepare_batch_with_lesion"]

MISSING_CLASS = -1
MISSING_MASK = -1


def plain(value: Any) -> Any:
    """Return a ``MetaTensor`` as a tensor without history, anything else as it is."""
    return value.as_tensor() if isinstance(value, MetaTensor) else value


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
    own_rule = {"native_label", "class_label", "spacing_mm"}
    for key in items[0]:
        if key in own_rule or not all(key in item for item in items):
            continue
        values = [item[key] for item in items]
        if all(isinstance(value, (Tensor, int, float)) for value in values):
            batch[key] = list_data_collate([{key: value} for value in values])[key]
        elif all(value is None or isinstance(value, str) for value in values):
            batch[key] = values
    if any("native_label" in item for item in items):
        batch["native_label"] = _padded([item.get("native_label") for item in items])
    labels = [item.get("class_label") for item in items]
    if any(label is not None for label in labels):
        known = [MISSING_CLASS if label is None else int(label) for label in labels]
        batch["class_label"] = torch.tensor(known)
    if any("spacing_mm" in item for item in items):
        nowhere = (float("nan"), float("nan"))
        spacings = [tuple(item.get("spacing_mm") or nowhere) for item in items]
        batch["spacing_mm"] = torch.tensor(spacings, dtype=torch.float64)
    return batch


def _padded(labels: Sequence[Tensor | None]) -> Tensor:
    shapes = [label.shape[-2:] for label in labels if label is not None]
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    padded = []
    for label in labels:
        mask = torch.empty(1, 0, 0) if label is None else plain(label)
        margins = (0, width - mask.shape[-1], 0, height - mask.shape[-2])
        padded.append(pad(mask.to(torch.int8), margins, value=MISSING_MASK))
    return torch.stack(padded)


def prepare_batch(
    batchdata: Mapping[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the network's input and the loss's targets on the device, for MONAI's engines.

    Args:
        batchdata: a collated batch with ``image`` (N, 1, H, W) float32 and, where known, ``label``
            (N, 1, H, W) float32 of 0 and 1 (−1: no mask known) and ``class_label`` (N,) int.
        device: where to put them.
        non_blocking: as in ``Tensor.to``.
        kwargs: passed on to ``Tensor.to``, for the image.

    Returns:
        ``image`` (a ``MetaTensor`` stays one, postprocessing needs its history) and
        ``{"seg": (N, 1, H, W) float32, "cls": (N,) int64}``, without the parts that are unknown.

    Examples:
        >>> batch = {"image": torch.zeros(2, 1, 8, 8), "class_label": torch.tensor([0, 2])}
        >>> image, targets = prepare_batch(batch, "cpu")
        >>> targets
        {'cls': tensor([0, 2])}
    """
    image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
    targets: dict[str, Tensor] = {}
    if "label" in batchdata:
        targets["seg"] = plain(torch.as_tensor(batchdata["label"]))
    if "class_label" in batchdata:
        targets["cls"] = torch.as_tensor(batchdata["class_label"]).long()
    return image, {
        name: target.to(device=device, non_blocking=non_blocking)
        for name, target in targets.items()
    }


def prepare_batch_with_lesion(
    batchdata: Mapping[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor]]:
    """``prepare_batch`` that also hands the true masks to a ``TwoStageNetwork``, as ``lesion``.

    Its classifier is then measured on the true lesions' crops.

    Returns:
        ``image`` and targets as from ``prepare_batch``, no further positional arguments, and
        ``{"lesion": (N, 1, H, W) float32}``, all −1 for images without a mask.
    """
    image, targets = prepare_batch(batchdata, device, non_blocking, **kwargs)
    return image, targets, (), {"lesion": targets["seg"]}
