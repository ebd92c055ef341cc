"""From a collated batch to what the two-headed network and its loss want."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["MISSING_CLASS", "prepare_batch", "prepare_batch_with_lesion"]

MISSING_CLASS = -1


def prepare_batch(
    batchdata: Mapping[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the network's input and the loss's targets on the device.

    Args:
        batchdata: a collated batch with ``image`` (N, 1, H, W) float32 and, where known, ``label``
            (N, 1, H, W) float32 of 0 and 1 (-1: no mask known) and ``class_label`` (N,) int.
        device: where to put them.
        non_blocking: as in ``Tensor.to``.
        kwargs: passed on to ``Tensor.to``.

    Returns:
        ``image`` (a MetaTensor stays one, postprocessing needs its history) and
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
        mask = torch.as_tensor(batchdata["label"])
        mask = mask.as_tensor() if hasattr(mask, "as_tensor") else mask
        targets["seg"] = mask.to(device=device, non_blocking=non_blocking)
    if "class_label" in batchdata:
        labels = torch.as_tensor(batchdata["class_label"]).long()
        targets["cls"] = labels.to(device=device, non_blocking=non_blocking)
    return image, targets


def prepare_batch_with_lesion(
    batchdata: Mapping[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor]]:
    """``prepare_batch`` that also hands the true masks to the network, as ``lesion``.

    For ``busi_monai.networks.TwoStageNetwork``, whose classifier is then measured on the true
    lesions' crops.

    Returns:
        ``image`` and targets as from ``prepare_batch``, no further positional arguments, and
        ``{"lesion": (N, 1, H, W) float32}``, all −1 for images without a mask.
    """
    image, targets = prepare_batch(batchdata, device, non_blocking, **kwargs)
    return image, targets, (), {"lesion": targets["seg"]}
