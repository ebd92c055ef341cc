"""Mixed images for training: mixup and cutmix of a batch, masks and classes included.

``mixup`` (Zhang et al., ICLR 2018) and ``cutmix`` (Yun et al., ICCV 2019) are deterministic;
``MixedBatches`` samples from torch's global generator, which ``EpochSeed`` seeds anew in every
epoch, so that a resumed run mixes as one that was never stopped.

What is missing stays missing. An image is mixed only with a partner that has every truth (mask,
class) that it has itself, since one half of a truth is none: without such a partner it stays as it
is. A truth that an image lacks is not taken from its partner either.

Classes become soft: (N, C) float32 that add up to 1 in each row, all −1 where the class is missing,
as all −1 is a missing mask. ``mixup`` makes masks of 0 to 1; those of ``cutmix`` remain 0 and 1.
Cutmix mixes classes by the pasted area, whether or not a lesion lies in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.transforms import MISSING_CLASS, prepare_batch

__all__ = ["MixedBatches", "cutmix", "make_prepare_batch", "mixup", "random_box", "soft_classes"]

Targets = dict[str, Tensor]
Batch = tuple[Tensor, Targets]
Box = tuple[int, int, int, int]


def make_prepare_batch(
    options: Mapping[str, float], classes: int = len(CLASSES)
) -> Callable[..., Batch]:
    """Return the trainer's prepare-batch: ``prepare_batch`` itself where nothing is mixed.

    Raises:
        InputError: if an option of ``MixedBatches`` is unknown or out of range.

    Examples:
        >>> make_prepare_batch({}) is prepare_batch
        True
        >>> make_prepare_batch({"mixpu": 0.2})
        Traceback (most recent call last):
        busi_monai.errors.InputError: mixing_options takes mixup, cutmix, probability, got 'mixpu'
    """
    known = ("mixup", "cutmix", "probability")
    for name in options:
        if name not in known:
            raise InputError(f"mixing_options takes {', '.join(known)}, got {name!r}")
    mixed = MixedBatches(classes, **options)
    return mixed if mixed.kinds and mixed.probability > 0 else prepare_batch


class MixedBatches:
    """``prepare_batch`` for training that mixes the images of some batches with each other.

    Every image of such a batch meets another one of it, drawn at random. Where both kinds are
    on, each takes half of the batches that are mixed.

    Args:
        classes: how many classes the network tells apart; 0 leaves the classes out.
        mixup: alpha of the Beta distribution that the shares of ``mixup`` come from; 0 for none.
        cutmix: the same for the areas that ``cutmix`` leaves; 0 for none.
        probability: how often a batch is mixed.

    Raises:
        InputError: if an alpha is below 0, or the probability outside [0, 1].

    Examples:
        >>> batch = {"image": torch.rand(4, 1, 8, 8), "class_label": torch.tensor([0, 1, 2, 2])}
        >>> image, targets = MixedBatches(mixup=0.4)(batch, "cpu")
        >>> image.shape, targets["cls"].shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        classes: int = len(CLASSES),
        *,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        probability: float = 1.0,
    ) -> None:
        alphas = {"mixup": mixup, "cutmix": cutmix}
        for name, alpha in alphas.items():
            if not _number(alpha) or alpha < 0:
                raise InputError(f"mixing_options: {name} must be at least 0, got {alpha}")
        if not _number(probability) or not 0 <= probability <= 1:
            raise InputError(
                f"mixing_options: probability must be a number in [0, 1], got {probability}"
            )
        self.classes = classes
        self.kinds = {name: float(alpha) for name, alpha in alphas.items() if alpha > 0}
        self.probability = probability

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Batch:
        """Return image and targets as ``prepare_batch`` does, in some batches mixed."""
        image, targets = prepare_batch(batchdata, device, non_blocking, **kwargs)
        if not self.classes:
            targets.pop("cls", None)
        if not self.kinds or float(torch.rand(())) >= self.probability:
            return image, targets
        if isinstance(image, MetaTensor):
            image = image.as_tensor()  # a mixed image has no history to go back by
        kind = list(self.kinds)[int(torch.randint(len(self.kinds), ()))]
        order = torch.randperm(len(image)).to(image.device)
        share = _beta(self.kinds[kind])
        if kind == "mixup":
            return mixup(image, targets, order, share, classes=self.classes)
        box = random_box(image.shape[-2:], 1 - share)
        return cutmix(image, targets, order, box, classes=self.classes)


def mixup(
    image: Tensor,
    targets: Mapping[str, Tensor],
    order: Tensor,
    share: float,
    *,
    classes: int = len(CLASSES),
) -> Batch:
    """Return ``share`` of every image plus the rest of its partner; masks and classes alike.

    Args:
        image: (N, 1, H, W) float32.
        targets: ``seg`` (N, 1, H, W) of 0 to 1, all −1 where there is no mask, and ``cls`` (N,)
            int, −1 where there is no class; either may be absent.
        order: (N,) int, the partner of each image.
        share: of the image itself, in [0, 1].
        classes: how many there are.

    Returns:
        the mixed images, and ``{"seg": (N, 1, H, W) float, "cls": (N, classes) float32}``.

    Examples:
        >>> image = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
        >>> targets = {"cls": torch.tensor([0, 2])}
        >>> image, targets = mixup(image, targets, torch.tensor([1, 0]), 0.75)
        >>> image.flatten().tolist()
        [0.25, 0.75]
        >>> targets["cls"].tolist()
        [[0.75, 0.0, 0.25], [0.25, 0.0, 0.75]]
    """
    own = torch.where(_matched(targets, order), share, 1.0)
    mixed = _soft_class(targets, order, own, classes)
    if "seg" in targets:
        mask = targets["seg"].float()
        mixed["seg"] = torch.where(_has_mask(mask), _blend(mask, mask[order], own), mask)
    return _blend(image, image[order], own), mixed


def cutmix(
    image: Tensor,
    targets: Mapping[str, Tensor],
    order: Tensor,
    box: Box,
    *,
    classes: int = len(CLASSES),
) -> Batch:
    """Return every image with a rectangle of its partner's at the same place; masks alike.

    Classes are mixed by area. All else is as for ``mixup``.

    Args:
        image: (N, 1, H, W) float32.
        targets: ``seg`` and ``cls``.
        order: the partner of each image.
        box: (left, top, width, height) in pixels, within the image.
        classes: how many there are.
    """
    left, top, width, height = box
    inside = torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
    inside[top : top + height, left : left + width] = True
    matched = _matched(targets, order)
    pasted = inside & matched[:, None, None, None]
    own = torch.where(matched, 1 - width * height / inside.numel(), 1.0)
    mixed = _soft_class(targets, order, own, classes)
    if "seg" in targets:
        mask = targets["seg"]
        mixed["seg"] = torch.where(pasted & _has_mask(mask), mask[order], mask)
    return torch.where(pasted, image[order], image), mixed


def soft_classes(labels: Tensor, classes: int) -> Tensor:
    """Return (N,) integer labels as (N, classes) float32, all −1 where the label is −1."""
    soft = functional.one_hot(labels.clamp(min=0), classes).float()
    return soft.masked_fill((labels == MISSING_CLASS)[:, None], MISSING_CLASS)


def random_box(size: Sequence[int], part: float) -> Box:
    """Return a (left, top, width, height) box of the image's aspect, drawn as in cutmix.

    Its middle falls anywhere, and what reaches beyond the image of ``size`` (height, width) is cut
    off; before, it has ``part`` of the image's area.
    """
    spans = []
    for side, middle in zip(size, torch.rand(2).tolist(), strict=True):
        half = side * part**0.5 / 2
        low, high = (round(min(max(middle * side + way * half, 0), side)) for way in (-1, 1))
        spans.append((low, high - low))
    (top, height), (left, width) = spans
    return left, top, width, height


def _beta(alpha: float) -> float:
    both = torch.tensor(alpha, dtype=torch.float64)  # in float32, small alphas give 0 and 1 only
    return float(torch.distributions.Beta(both, both).sample())


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_mask(mask: Tensor) -> Tensor:
    return mask.amax(dim=(1, 2, 3), keepdim=True) >= 0


def _matched(targets: Mapping[str, Tensor], order: Tensor) -> Tensor:
    """Return which images have a partner with every truth that they have, (N,) bool."""
    matched = torch.ones_like(order, dtype=torch.bool)
    if "seg" in targets:
        known = _has_mask(targets["seg"]).flatten()
        matched &= ~known | known[order]
    if "cls" in targets:
        known = targets["cls"] != MISSING_CLASS
        matched &= ~known | known[order]
    return matched


def _soft_class(targets: Mapping[str, Tensor], order: Tensor, own: Tensor, classes: int) -> Targets:
    if "cls" not in targets:
        return {}
    soft = soft_classes(targets["cls"], classes)
    known = (targets["cls"] != MISSING_CLASS)[:, None]
    return {"cls": torch.where(known, _blend(soft, soft[order], own), soft)}


def _blend(one: Tensor, other: Tensor, own: Tensor) -> Tensor:
    """Return ``own`` (N,) of one batch plus the rest of the other, exactly one where it is 1."""
    return torch.lerp(other, one, own.reshape(-1, *[1] * (one.ndim - 1)))
