"""``MultiTaskLoss``: the weighted sum of a mask loss and a class loss, each by name.

Empty masks. The Dice of an empty mask is 0 for whatever a network gives, so that MONAI's loss is a
constant 1 there, without a gradient, until the smoothing of 1e-5 pixels comes into reach. A normal
then teaches the Dice term nothing. What happens instead is chosen by ``empty_masks``:

=================== =================================================================
``false_positives`` (default) the Dice term is ``S / (S + k)`` with the sum ``S`` of the predicted
                    lesion probabilities over the image and ``k`` = 1 % of its pixels: about 0
                    for a confidently empty prediction, 0.5 if a hundredth of the image is
                    predicted, towards 1 beyond
``leave_out``       no Dice term for that image; the pixelwise term, if there is one, remains
``smooth``          MONAI's own: close to 1 unless the prediction is exactly empty
=================== =================================================================

Images without a mask (all −1) or without a class (−1) count in neither sum nor mean.

Soft truth, as ``mixing`` makes it. Masks may lie anywhere in [0, 1]; one that stays below a half
everywhere is empty, a normal with a trace of a lesion, which would otherwise be as inert as under
``smooth``. The Dice stays linear in the mask, so that a lesion counts by its share; its optimum is
then 0 or 1 in each pixel, and only the pixelwise terms ask for the share itself. Classes may be
probabilities: the loss is then the mean of each class's own loss weighted by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import Tensor, nn
from torch.nn import functional

from busi_monai.training.distributed import shared_count

__all__ = [
    "CLASSIFICATION_LOSSES",
    "EMPTY_MASKS",
    "LOSSES",
    "SEGMENTATION_LOSSES",
    "ClassLoss",
    "MaskLoss",
    "MultiTaskLoss",
]

SEGMENTATION_LOSSES: dict[str, tuple[str, ...]] = {
    "dice_ce": ("dice", "bce"),
    "bce": ("bce",),
    "dice": ("dice",),
    "focal": ("focal",),
    "dice_focal": ("dice", "focal"),
}
"""Mask losses by name: the terms that are added. ``dice_ce`` is MONAI's ``DiceCELoss``."""

CLASSIFICATION_LOSSES: tuple[str, ...] = ("ce", "focal")
"""Class losses by name."""

LOSSES: dict[str, tuple[str, ...]] = {
    "segmentation": tuple(SEGMENTATION_LOSSES),
    "classification": CLASSIFICATION_LOSSES,
}
"""Names of the losses of each head, for whoever lists them."""

EMPTY_MASKS = ("false_positives", "leave_out", "smooth")
EMPTY_FRACTION = 0.01
LESION = 0.5  # what a soft mask holds by less is no lesion
MISSING = -1
FOCAL_GAMMA = 2.0
"""Exponent of both focal losses (Lin et al., ICCV 2017)."""
COARSER = 0.5
"""Each coarser output of deep supervision counts this much less than the one before; the weights
are divided by their sum (as in nnU-Net, Isensee et al., 2021)."""


class MultiTaskLoss(nn.Module):
    """``seg_weight`` · mask loss + ``cls_weight`` · class loss, in float32 whatever the autocast.

    A weight of 0 turns its head off: nothing is computed for it, and the network need not have it.
    Each head's loss is the mean over those images of the batch that carry its truth, and 0 if
    none does. Of several processes that train, the average of their losses is that of the whole
    batch, also where their shares carry truth for different numbers of images.

    Args:
        seg_weight: weight of the mask loss, at least 0.
        cls_weight: weight of the class loss, at least 0.
        segmentation: a name of ``SEGMENTATION_LOSSES``.
        classification: a name of ``CLASSIFICATION_LOSSES``.
        class_weights: one weight for each class, in the order of the classes.
        label_smoothing: of ``ce``, in [0, 1).
        empty_masks: one of ``EMPTY_MASKS``; see the module.

    Attributes:
        parts: the detached, unweighted parts of the last call, ``{"seg": …, "cls": …}``, 0-d
            tensors on the outputs' device; only heads that are on.

    Raises:
        ValueError: if a name, weight or option is wrong; from a call, if a head that is on is not
            in the outputs or does not fit its target.

    Examples:
        >>> loss = MultiTaskLoss()
        >>> outputs = {"seg": torch.zeros(2, 1, 8, 8), "cls": torch.zeros(2, 3)}
        >>> targets = {"seg": torch.ones(2, 1, 8, 8), "cls": torch.tensor([2, -1])}
        >>> round(loss(outputs, targets).item(), 4)
        1.0373
        >>> {name: round(part.item(), 4) for name, part in loss.parts.items()}
        {'seg': 1.0265, 'cls': 1.0986}
    """

    def __init__(
        self,
        seg_weight: float = 0.85,
        cls_weight: float = 0.15,
        segmentation: str = "dice_ce",
        classification: str = "ce",
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        empty_masks: str = "false_positives",
    ) -> None:
        super().__init__()
        if min(seg_weight, cls_weight) < 0 or seg_weight + cls_weight == 0:
            raise ValueError(
                "seg_weight and cls_weight must be at least 0 and not both 0, got "
                f"{seg_weight} and {cls_weight}"
            )
        self.weights = {"seg": float(seg_weight), "cls": float(cls_weight)}
        self.mask_loss = MaskLoss(segmentation, empty_masks=empty_masks)
        self.class_loss = ClassLoss(
            classification,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )
        self.parts: dict[str, Tensor] = {}

    def forward(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch, a 0-d float32 tensor.

        Args:
            outputs: ``seg`` (N, 1, H, W) and ``cls`` (N, C) logits, and ``seg_aux1``, … of deep
                supervision.
            targets: ``seg`` (N, 1, H, W) from 0 to 1, all −1 where an image has no mask; ``cls``
                (N,) integer, −1 where it has no class, or (N, C) probabilities, all −1 where it has
                none. A key that is absent counts as missing for all.
        """
        active = [head for head, weight in self.weights.items() if weight > 0]
        for head in active:
            if head not in outputs:
                raise ValueError(
                    f"the network gives no {head!r} (it gives {', '.join(sorted(outputs))}), but "
                    f"{head}_weight is {self.weights[head]}; set {head}_weight=0 or add the head"
                )
        with torch.autocast(outputs[active[0]].device.type, enabled=False):
            terms = {head: self._term(head, outputs, targets) for head in active}
        self.parts = {head: term.detach() for head, term in terms.items()}
        return torch.stack([self.weights[head] * term for head, term in terms.items()]).sum()

    def _term(
        self, head: str, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> Tensor:
        logits = _plain(outputs[head]).float()
        if head not in targets:
            return logits.sum() * 0.0
        target = _plain(targets[head])
        if head == "cls":
            return self.class_loss(logits, target)
        target = target.float()
        lesions = target.amax(dim=(1, 2, 3)) >= LESION
        auxiliary = sorted((key for key in outputs if key.startswith("seg_aux")), key=_number)
        total, weight, weights = self.mask_loss(logits, target), 1.0, 1.0
        for key in auxiliary:
            weight *= COARSER
            weights += weight
            coarse = _plain(outputs[key]).float()
            smaller = functional.interpolate(target, size=coarse.shape[-2:], mode="area")
            total = total + weight * self.mask_loss(coarse, smaller, lesions)
        return total / weights


class MaskLoss(nn.Module):
    """Mean over the images that have a mask of the sum of a loss's terms."""

    def __init__(
        self,
        name: str = "dice_ce",
        *,
        empty_masks: str = "false_positives",
    ) -> None:
        super().__init__()
        self.terms = SEGMENTATION_LOSSES[_one_of("segmentation", name, SEGMENTATION_LOSSES)]
        self.empty_masks = _one_of("empty_masks", empty_masks, EMPTY_MASKS)
        self.dice = DiceLoss(sigmoid=True, reduction="none")
        self.focal = FocalLoss(gamma=FOCAL_GAMMA, reduction="none")

    def forward(self, logits: Tensor, mask: Tensor, lesions: Tensor | None = None) -> Tensor:
        """Return the loss of (N, 1, H, W) logits and a mask of that shape, 0 to 1 or all −1.

        Args:
            logits: of the mask.
            mask: the truth.
            lesions: (N,) bool, which masks are not empty; by default those that reach a half
                somewhere, which a small lesion at a coarse level may not.
        """
        if logits.shape != mask.shape:
            raise ValueError(
                f"seg: expected a mask of the logits' shape {tuple(logits.shape)}, got "
                f"{tuple(mask.shape)}"
            )
        largest = mask.amax(dim=(1, 2, 3))
        present = (largest >= 0).float()
        empty = largest < LESION if lesions is None else ~lesions
        mask = mask.clamp(min=0)
        losses = torch.zeros_like(present)
        for term in self.terms:
            losses = losses + getattr(self, f"_{term}")(logits, mask, empty)
        return _mean(losses * present, present.sum())

    def _dice(self, logits: Tensor, mask: Tensor, empty: Tensor) -> Tensor:
        losses = self.dice(logits, mask).flatten(1).mean(1)
        if self.empty_masks == "smooth":
            return losses
        if self.empty_masks == "leave_out":
            return losses * ~empty
        predicted = logits.sigmoid().mean(dim=(1, 2, 3))
        return torch.where(empty, predicted / (predicted + EMPTY_FRACTION), losses)

    def _bce(self, logits: Tensor, mask: Tensor, empty: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean(
            dim=(1, 2, 3)
        )

    def _focal(self, logits: Tensor, mask: Tensor, empty: Tensor) -> Tensor:
        return self.focal(logits, mask).mean(dim=(1, 2, 3))


class ClassLoss(nn.Module):
    """Weighted mean over the images that have a class, as ``torch.nn.CrossEntropyLoss`` takes it.

    Integer labels and probabilities are averaged as torch does: by the sum of the labels' class
    weights, and by the number of images.

    Args:
        name: a name of ``CLASSIFICATION_LOSSES``.
        class_weights: one weight for each class; None for equal ones.
        label_smoothing: of ``ce``, in [0, 1).

    Raises:
        ValueError: if a name is unknown or an option does not fit; from a call, if there are not
            as many weights as classes, or the labels do not fit the logits.
    """

    def __init__(
        self,
        name: str = "ce",
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.name = _one_of("classification", name, CLASSIFICATION_LOSSES)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if label_smoothing and name != "ce":
            raise ValueError(f"label_smoothing belongs to the loss 'ce', not to {name!r}")
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of (N, C) logits and their labels.

        Args:
            logits: (N, C) float.
            labels: (N,) or (N, 1) integer, −1 for a missing one; or (N, C) probabilities in
                floating point, all −1 for a missing one.
        """
        weights = logits.new_ones(logits.shape[1])
        if self.class_weights is not None:
            weights = self.class_weights.to(logits)
        if len(weights) != logits.shape[1]:
            raise ValueError(
                f"class_weights must have {logits.shape[1]} entries, one for each class, got "
                f"{len(weights)}"
            )
        if labels.ndim == 2 and labels.shape[1] > 1:
            return self._soft(logits, labels, weights)
        return self._hard(logits, labels.reshape(-1).long(), weights)

    def _hard(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        if len(labels) != len(logits):
            raise ValueError(f"cls: expected {len(logits)} labels, got {len(labels)}")
        present = labels != MISSING
        losses = functional.cross_entropy(
            logits,
            labels,
            weight=weights,
            ignore_index=MISSING,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        known = labels.clamp(min=0)
        if self.name == "focal":
            probability = logits.softmax(dim=1).gather(1, known[:, None]).squeeze(1)
            losses = losses * (1 - probability) ** FOCAL_GAMMA
        return _mean(losses, (weights[known] * present).sum())

    def _soft(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        if labels.shape != logits.shape or not labels.is_floating_point():
            raise ValueError(
                f"cls: expected floating-point probabilities of shape {tuple(logits.shape)}, got "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        present = labels.amin(dim=1) >= 0
        labels = labels.clamp(min=0).to(logits)
        if self.name == "focal":
            logs = logits.log_softmax(dim=1)
            losses = -(weights * labels * (1 - logs.exp()) ** FOCAL_GAMMA * logs).sum(dim=1)
        else:
            losses = functional.cross_entropy(
                logits,
                labels,
                weight=weights,
                label_smoothing=self.label_smoothing,
                reduction="none",
            )
        return _mean(losses * present, present.sum().to(losses))


def _mean(losses: Tensor, count: Tensor) -> Tensor:
    """Return the sum over the images divided by what counts of them, 0 if nothing does."""
    return losses.sum() / shared_count(count).clamp(min=torch.finfo(losses.dtype).tiny)


def _plain(tensor: Tensor) -> Tensor:
    """Return a ``MetaTensor`` as a plain tensor: each operation on the former costs far more."""
    return tensor.as_subclass(Tensor)


def _number(key: str) -> int:
    return int(key.removeprefix("seg_aux"))


def _one_of(argument: str, name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    if name not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {name!r}")
    return name
