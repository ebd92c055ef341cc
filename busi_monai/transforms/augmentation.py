"""Random variation of training images, made for ultrasound, on plain tensors for speed.

A random transform of ``geometry`` and ``appearance`` only samples parameters, then calls its
deterministic twin (``warp``, ``adjust_gamma``, …). MONAI's ``RandFlipd``, ``RandAffined``,
``RandAdjustContrastd`` and ``RandGaussianNoised`` took 3.5 ms together for a 160×160 image with its
mask on one core.

Images are varied in [0, 1], clipped after each step, and normalised last: a z-scored image
is first brought back to [0, 1] by its own range, which its z-score does not notice.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Compose, NormalizeIntensity, Transform

from busi_monai.settings import InferenceSettings
from busi_monai.transforms.appearance import (
    RandomBlurd,
    RandomDepthGaind,
    RandomGreyLevelsd,
    RandomMarksd,
    RandomNoised,
    RandomShadowd,
)
from busi_monai.transforms.batches import plain
from busi_monai.transforms.geometry import RandomGeometryd
from busi_monai.transforms.lesion_crop import RandomCropToLesiond
from busi_monai.transforms.sampling import Range

__all__ = ["TrainingTensorsd", "training_augmentation"]


def training_augmentation(
    settings: InferenceSettings,
    *,
    flip_probability: float = 0.5,
    affine_probability: float = 0.7,
    rotation_degrees: float = 12.0,
    scale_range: Range = (0.85, 1.2),
    translate: float = 0.08,
    crop_probability: float = 0.0,
    crop_scale: Range = (0.6, 1.0),
    blur_probability: float = 0.0,
    blur_sigma: Range = (0.3, 1.5),
    shadow_probability: float = 0.0,
    shadow: float = 0.6,
    depth_gain_probability: float = 0.0,
    depth_gain: float = 0.3,
    marks_probability: float = 0.0,
    grey_probability: float = 0.5,
    gamma: Range = (0.7, 1.5),
    contrast: Range = (0.8, 1.2),
    speckle_probability: float = 0.3,
    speckle: float = 0.15,
    noise_probability: float = 0.3,
    noise: float = 0.03,
    crop_jitter: float = 0.1,
    no_lesion_crop_probability: float = 0.5,
) -> Compose:
    """Return the random part of training, for items that went through the preprocessing.

    The options are told in docs/bundle.md, "Augmentation"; a step of probability 0 changes nothing,
    and those that are 0 by default are then not even in the chain. With a lesion crop, the first
    step is the random crop, which belongs before the resize:
    ``busi_monai.training.training_transforms`` puts it there.

    Chain the two flat: MONAI's ``CacheDataset`` keeps what comes before the first random transform
    and counts a nested ``Compose`` as random, so that nested, nothing would be kept.

    Only left and right are mirrored: the skin is on top. The result holds plain float32 tensors
    without history, and no ``native_label``, which would not fit any more. A mask of all −1 (a
    missing one) stays as it is.

    Raises:
        InputError: if a probability, ``shadow`` or ``depth_gain`` lies outside [0, 1], or a range
            is not increasing and positive.
    """
    on_request = (
        RandomBlurd(blur_probability, blur_sigma),
        RandomShadowd(shadow_probability, shadow),
        RandomDepthGaind(depth_gain_probability, depth_gain),
        RandomMarksd(marks_probability),
    )
    steps: list[Transform] = [
        TrainingTensorsd(unit_range=settings.normalisation != "unit"),
        RandomGeometryd(
            flip_probability=flip_probability,
            affine_probability=affine_probability,
            rotation_degrees=rotation_degrees,
            scale_range=scale_range,
            translate=translate,
            crop_probability=crop_probability,
            crop_scale=crop_scale,
        ),
        *(step for step in on_request if step.probability > 0),
        RandomGreyLevelsd(probability=grey_probability, gamma=gamma, contrast=contrast),
        RandomNoised(
            speckle_probability=speckle_probability,
            speckle=speckle,
            noise_probability=noise_probability,
            noise=noise,
        ),
    ]
    if settings.normalisation == "zscore":
        steps.append(_ZScored())
    if settings.lesion_crop is not None:
        crop = RandomCropToLesiond(
            ("image", "label"),
            settings.lesion_crop.margin,
            jitter=crop_jitter,
            no_lesion_probability=no_lesion_crop_probability,
        )
        steps.insert(0, crop)
    return Compose(steps)


class TrainingTensorsd(Transform):
    """Strip history and ``native_label``, and bring a normalised image back to [0, 1].

    Args:
        unit_range: whether to scale each image by its own range to [0, 1].
    """

    def __init__(self, unit_range: bool = False) -> None:
        self.unit_range = unit_range

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with plain tensors."""
        item = {key: plain(value) for key, value in data.items() if key != "native_label"}
        if self.unit_range:
            low, high = torch.aminmax(item["image"])
            item["image"] = (item["image"] - low) / (high - low).clamp_min(1e-8)
        return item


class _ZScored(Transform):
    """Normalise ``image`` to mean 0 and deviation 1, as the preprocessing does."""

    def __init__(self) -> None:
        self.normalise = NormalizeIntensity()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "image": plain(self.normalise(data["image"]))}
