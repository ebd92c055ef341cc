"""Random variation of training images, made for ultrasound, on plain tensors for speed.

``training_augmentation`` chains ``RandomGeometryd`` (``geometry``), ``RandomBlurd``,
``RandomShadowd`` and ``RandomDepthGaind`` (``acoustics``), ``RandomMarksd`` (``marks``), and
``RandomGreyLevelsd`` and ``RandomNoised`` (``grey_levels``). A random transform only samples
parameters, then calls its deterministic twin (``warp``, ``adjust_gamma``, …). MONAI's
``RandFlipd``, ``RandAffined``, ``RandAdjustContrastd`` and ``RandGaussianNoised`` took 3.5 ms
together for a 160×160 image with its mask on one core.

Images are varied in [0, 1], clipped after each step, and normalised last: a z-scored image
is first brought back to [0, 1] by its own range, which its z-score does not notice.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, NormalizeIntensity, Transform

from busi_monai.settings import InferenceSettings
from busi_monai.transforms.acoustics import RandomBlurd, RandomDepthGaind, RandomShadowd
from busi_monai.transforms.geometry import RandomGeometryd
from busi_monai.transforms.grey_levels import RandomGreyLevelsd, RandomNoised
from busi_monai.transforms.lesion_crop import RandomCropToLesiond
from busi_monai.transforms.marks import RandomMarksd
from busi_monai.transforms.sampling import Range

__all__ = ["TrainingTensorsd", "ZScored", "training_augmentation"]


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

    Chain the two flat: MONAI's ``CacheDataset`` keeps what comes before the first random transform
    and counts a nested ``Compose`` as random, so that nested, nothing would be kept.

    Only left and right are mirrored: the skin is on top. The result holds plain float32 tensors
    without history, and no ``native_label``, which would not fit any more. A mask of all −1 (a
    missing one) stays as it is.

    With a lesion crop, the first step is the random crop, which belongs before the resize:
    ``busi_monai.training.training_transforms`` puts it there.

    By default, nothing is cropped, blurred, shaded, differently gained or marked; such a step is
    then not even in the chain.

    Args:
        settings: its normalisation and lesion crop say what the network takes.
        flip_probability: how often an image is mirrored left to right.
        affine_probability: how often it is rotated, zoomed and moved.
        rotation_degrees: largest rotation either way.
        scale_range: (smallest, largest) zoom, drawn evenly on a log scale; above 1 enlarges.
        translate: largest shift as a part of the height and width.
        crop_probability: how often the field of view is narrowed to a part of it, which then fills
            the image; never so far that most of a lesion is lost (see ``RandomGeometryd``).
        crop_scale: (smallest, largest) part that is kept of the height and of the width, drawn for
            each by itself, so that the aspect changes too.
        blur_probability: how often resolution is lost.
        blur_sigma: (smallest, largest) lateral standard deviation of the blur in pixels of the
            network's input, drawn evenly on a log scale; half of it along the depth.
        shadow_probability: how often a band of columns below some depth is darkened or brightened,
            like an acoustic shadow or enhancement (see ``RandomShadowd``).
        shadow: largest attenuation there, and largest enhancement.
        depth_gain_probability: how often brightness varies along the depth, as with a wrong
            time-gain compensation.
        depth_gain: its largest relative deviation.
        marks_probability: how often calipers or text are planted, wherever the lesion is (see
            ``RandomMarksd``).
        grey_probability: how often gamma and contrast change.
        gamma: (smallest, largest) exponent, drawn evenly on a log scale.
        contrast: (smallest, largest) factor of the deviations from the mean grey.
        speckle_probability: how often multiplicative speckle is added.
        speckle: largest relative deviation of the speckle.
        noise_probability: how often Gaussian noise is added.
        noise: largest standard deviation of the noise, in grey levels of [0, 1].
        crop_jitter: with a lesion crop, how far each side of the box moves at most, as a part of
            the box's length.
        no_lesion_crop_probability: with a lesion crop, how often an image without lesion is
            cropped at random.

    Raises:
        InputError: if a probability, ``shadow`` or ``depth_gain`` lies outside [0, 1], or a range
            is not increasing and positive.
    """
    on_request: list[RandomBlurd | RandomShadowd | RandomDepthGaind | RandomMarksd] = [
        RandomBlurd(blur_probability, blur_sigma),
        RandomShadowd(shadow_probability, shadow),
        RandomDepthGaind(depth_gain_probability, depth_gain),
        RandomMarksd(marks_probability),
    ]
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
        steps.append(ZScored())
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
        item = {
            key: value.as_tensor() if isinstance(value, MetaTensor) else value
            for key, value in data.items()
            if key != "native_label"
        }
        if self.unit_range:
            low, high = torch.aminmax(item["image"])
            item["image"] = (item["image"] - low) / (high - low).clamp_min(1e-8)
        return item


class ZScored(Transform):
    """Normalise ``image`` to mean 0 and deviation 1, as the preprocessing does."""

    def __init__(self) -> None:
        self.normalise = NormalizeIntensity()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its image normalised."""
        image = self.normalise(data["image"])
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return {**data, "image": plain}
