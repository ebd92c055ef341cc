"""Random variation of training pictures, made for ultrasound, on plain tensors for speed.

A random transform only samples parameters, then calls its deterministic twin (``warp``,
``adjust_gamma``, …). MONAI's ``RandFlipd``, ``RandAffined``, ``RandAdjustContrastd`` and
``RandGaussianNoised`` took 3.5 ms together for a 160×160 picture with its mask on one core.

Pictures are varied in [0, 1], clipped after each step, and normalised last: a z-scored picture
is first brought back to [0, 1] by its own range, which its z-score does not notice.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, NormalizeIntensity, Randomizable, Transform
from torch.nn.functional import interpolate

from busi_monai.errors import InputError
from busi_monai.operating import OperatingPoint
from busi_monai.transforms.lesion_crop import RandomCropToLesiond

__all__ = [
    "RandomGeometryd",
    "RandomGreyLevelsd",
    "RandomNoised",
    "TrainingTensorsd",
    "ZScored",
    "add_gaussian_noise",
    "add_speckle",
    "adjust_contrast",
    "adjust_gamma",
    "affine_matrix",
    "mirror",
    "speckle_field",
    "training_augmentation",
    "warp",
]

Range = Sequence[float]


def training_augmentation(
    operating: OperatingPoint,
    *,
    flip_probability: float = 0.5,
    affine_probability: float = 0.7,
    rotation_degrees: float = 12.0,
    scale_range: Range = (0.85, 1.2),
    translate: float = 0.08,
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

    Args:
        operating: its normalisation and lesion crop say what the network takes.
        flip_probability: how often a picture is mirrored left to right.
        affine_probability: how often it is rotated, zoomed and moved.
        rotation_degrees: largest rotation either way.
        scale_range: (smallest, largest) zoom, drawn evenly on a log scale; above 1 enlarges.
        translate: largest shift as a part of the height and width.
        grey_probability: how often gamma and contrast change.
        gamma: (smallest, largest) exponent, drawn evenly on a log scale.
        contrast: (smallest, largest) factor of the deviations from the mean grey.
        speckle_probability: how often multiplicative speckle is added.
        speckle: largest relative deviation of the speckle.
        noise_probability: how often Gaussian noise is added.
        noise: largest standard deviation of the noise, in grey levels of [0, 1].
        crop_jitter: with a lesion crop, how far each side of the box moves at most, as a part of
            the box's length.
        no_lesion_crop_probability: with a lesion crop, how often a picture without lesion is
            cropped at random.

    Raises:
        InputError: if a probability lies outside [0, 1], or a range is not increasing and positive.
    """
    steps: list[Transform] = [
        TrainingTensorsd(unit_range=operating.normalisation != "unit"),
        RandomGeometryd(
            flip_probability=flip_probability,
            affine_probability=affine_probability,
            rotation_degrees=rotation_degrees,
            scale_range=scale_range,
            translate=translate,
        ),
        RandomGreyLevelsd(probability=grey_probability, gamma=gamma, contrast=contrast),
        RandomNoised(
            speckle_probability=speckle_probability,
            speckle=speckle,
            noise_probability=noise_probability,
            noise=noise,
        ),
    ]
    if operating.normalisation == "zscore":
        steps.append(ZScored())
    if operating.lesion_crop is not None:
        crop = RandomCropToLesiond(
            ("image", "label"),
            operating.lesion_crop.margin,
            jitter=crop_jitter,
            no_lesion_probability=no_lesion_crop_probability,
        )
        steps.insert(0, crop)
    return Compose(steps)


class TrainingTensorsd(Transform):
    """Strip history and ``native_label``, and bring a normalised picture back to [0, 1].

    Args:
        unit_range: whether to scale each picture by its own range to [0, 1].
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


class RandomGeometryd(MapTransform, Randomizable):
    """Mirror, rotate, zoom and move ``image`` (linear) and ``label`` (nearest) alike.

    What comes from outside is black and no lesion. See ``training_augmentation`` for the options.
    """

    def __init__(
        self,
        flip_probability: float,
        affine_probability: float,
        rotation_degrees: float,
        scale_range: Range,
        translate: float,
    ) -> None:
        super().__init__(("image", "label"), allow_missing_keys=True)
        self.flip_probability = _probability("flip_probability", flip_probability)
        self.affine_probability = _probability("affine_probability", affine_probability)
        self.rotation_degrees = rotation_degrees
        self.scale_range = _range("scale_range", scale_range)
        self.translate = translate

    def randomize(self, data: tuple[int, int]) -> None:
        """Sample whether to mirror, and the matrix for a picture of this (height, width)."""
        self.flip = bool(self.R.random_sample() < self.flip_probability)
        self.matrix: np.ndarray | None = None
        if self.R.random_sample() < self.affine_probability:
            self.matrix = affine_matrix(
                data,
                rotation_degrees=self.R.uniform(-self.rotation_degrees, self.rotation_degrees),
                scale=_log_uniform(self.R, self.scale_range),
                shift=self.R.uniform(-self.translate, self.translate, size=2),
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with image and label moved."""
        item = dict(data)
        self.randomize(tuple(item["image"].shape[-2:]))
        for key in self.key_iterator(item):
            is_mask = key == "label"
            if is_mask and float(item[key].min()) < 0:
                continue
            if self.flip:
                item[key] = mirror(item[key])
            if self.matrix is not None:
                item[key] = warp(item[key], self.matrix, nearest=is_mask)
        return item


class RandomGreyLevelsd(Randomizable, Transform):
    """Change gamma and contrast of ``image``."""

    def __init__(self, probability: float, gamma: Range, contrast: Range) -> None:
        self.probability = _probability("grey_probability", probability)
        self.gamma_range = _range("gamma", gamma)
        self.contrast_range = _range("contrast", contrast)

    def randomize(self, data: Any = None) -> None:
        """Sample an exponent and a factor, or none."""
        self.gamma: float | None = None
        if self.R.random_sample() < self.probability:
            self.gamma = _log_uniform(self.R, self.gamma_range)
            self.contrast = _log_uniform(self.R, self.contrast_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with other grey levels."""
        item = dict(data)
        self.randomize()
        if self.gamma is not None:
            image = adjust_gamma(item["image"], self.gamma)
            item["image"] = adjust_contrast(image, self.contrast)
        return item


class RandomNoised(Randomizable, Transform):
    """Add multiplicative speckle and additive Gaussian noise to ``image``."""

    def __init__(
        self, speckle_probability: float, speckle: float, noise_probability: float, noise: float
    ) -> None:
        self.speckle_probability = _probability("speckle_probability", speckle_probability)
        self.noise_probability = _probability("noise_probability", noise_probability)
        self.speckle = speckle
        self.noise = noise

    def randomize(self, data: tuple[int, int]) -> None:
        """Sample the fields for a picture of this (height, width), or none."""
        self.speckle_field: torch.Tensor | None = None
        self.noise_field: torch.Tensor | None = None
        if self.R.random_sample() < self.speckle_probability:
            field = speckle_field(data, grain=int(self.R.randint(1, 4)), generator=self._noise())
            self.speckle_field = field * self.R.uniform(0, self.speckle)
        if self.R.random_sample() < self.noise_probability:
            field = torch.randn((1, *data), generator=self._noise())
            self.noise_field = field * self.R.uniform(0, self.noise)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with a noisier image."""
        item = dict(data)
        self.randomize(tuple(item["image"].shape[-2:]))
        if self.speckle_field is not None:
            item["image"] = add_speckle(item["image"], self.speckle_field)
        if self.noise_field is not None:
            item["image"] = add_gaussian_noise(item["image"], self.noise_field)
        return item

    def _noise(self) -> torch.Generator:
        # torch fills a field four times as fast as the RandomState that MONAI seeds
        return torch.Generator().manual_seed(int(self.R.randint(2**31)))


class ZScored(Transform):
    """Normalise ``image`` to mean 0 and deviation 1, as the preprocessing does."""

    def __init__(self) -> None:
        self.normalise = NormalizeIntensity()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its image normalised."""
        image = self.normalise(data["image"])
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return {**data, "image": plain}


def mirror(image: torch.Tensor) -> torch.Tensor:
    """Return a (…, H, W) tensor mirrored left to right."""
    return torch.flip(image, (-1,))


def affine_matrix(
    size: tuple[int, int], *, rotation_degrees: float, scale: float, shift: Sequence[float]
) -> np.ndarray:
    """Return the (2, 3) matrix that takes an output pixel (x, y, 1) to its input pixel.

    Args:
        size: (height, width) in pixels.
        rotation_degrees: anticlockwise rotation about the picture's centre.
        scale: zoom about the centre; above 1 enlarges.
        shift: movement (down, right) as parts of the height and width.
    """
    height, width = size
    angle = math.radians(rotation_degrees)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    moved = centre + np.array([shift[1] * width, shift[0] * height])
    return np.concatenate([turn, (centre - turn @ moved)[:, None]], axis=1)


def warp(image: torch.Tensor, matrix: np.ndarray, *, nearest: bool = False) -> torch.Tensor:
    """Return a (1, H, W) float32 tensor resampled by OpenCV through ``affine_matrix``.

    Args:
        image: the picture or mask; 0 comes in from outside.
        matrix: (2, 3), output to input pixels.
        nearest: take the nearest pixel instead of the linear mean, for masks.
    """
    height, width = image.shape[-2:]
    flags = (cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(image[0].contiguous().numpy(), matrix, (width, height), flags=flags)
    return torch.from_numpy(warped)[None]


def adjust_gamma(image: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return ``image`` in [0, 1] to the power of ``gamma``; above 1 darkens."""
    return image.clamp(0, 1).pow(gamma)


def adjust_contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Return ``image`` with the deviations from its mean times ``factor``, clipped to [0, 1]."""
    mean = image.mean()
    return ((image - mean) * factor + mean).clamp_(0, 1)


def add_speckle(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Return ``image`` times (1 + ``field``), clipped to [0, 1]: black stays black."""
    return (image * (1 + field)).clamp_(0, 1)


def add_gaussian_noise(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Return ``image`` plus ``field``, clipped to [0, 1]."""
    return (image + field).clamp_(0, 1)


def speckle_field(size: tuple[int, int], *, grain: int, generator: torch.Generator) -> torch.Tensor:
    """Return a (1, H, W) field of mean 0 and deviation near 1 (0.6 to 1) with grains of this size.

    Args:
        size: (height, width) in pixels.
        grain: side of one speckle in pixels; 1 gives independent pixels.
        generator: source of randomness.
    """
    coarse = (1, 1, math.ceil(size[0] / grain), math.ceil(size[1] / grain))
    field = torch.randn(coarse, generator=generator)
    if grain > 1:
        field = interpolate(field, size=size, mode="bilinear", align_corners=False)
    return field[0]


def _log_uniform(state: np.random.RandomState, bounds: tuple[float, float]) -> float:
    return math.exp(state.uniform(math.log(bounds[0]), math.log(bounds[1])))


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be a number in [0, 1], got {value}")
    return float(value)


def _range(name: str, value: Range) -> tuple[float, float]:
    if len(value) != 2 or not 0 < value[0] <= value[1]:
        raise InputError(f"{name} must be (smallest, largest), both above 0, got {tuple(value)}")
    return float(value[0]), float(value[1])
