"""How bright things are: gamma, contrast, speckle and noise.

``RandomGreyLevelsd`` and ``RandomNoised`` only sample; ``adjust_gamma``, ``adjust_contrast``,
``add_speckle`` and ``add_gaussian_noise`` do the work, on (1, H, W) float32 tensors in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Randomizable, Transform
from torch.nn.functional import interpolate

from busi_monai.transforms.sampling import Range, checked_part, checked_range, log_uniform

__all__ = [
    "RandomGreyLevelsd",
    "RandomNoised",
    "add_gaussian_noise",
    "add_speckle",
    "adjust_contrast",
    "adjust_gamma",
    "speckle_field",
]


class RandomGreyLevelsd(Randomizable, Transform):
    """Change gamma and contrast of ``image``."""

    def __init__(self, probability: float, gamma: Range, contrast: Range) -> None:
        self.probability = checked_part("grey_probability", probability)
        self.gamma_range = checked_range("gamma", gamma)
        self.contrast_range = checked_range("contrast", contrast)

    def randomize(self, data: Any = None) -> None:
        """Sample an exponent and a factor, or none."""
        self.gamma: float | None = None
        if self.R.random_sample() < self.probability:
            self.gamma = log_uniform(self.R, self.gamma_range)
            self.contrast = log_uniform(self.R, self.contrast_range)

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
        self.speckle_probability = checked_part("speckle_probability", speckle_probability)
        self.noise_probability = checked_part("noise_probability", noise_probability)
        self.speckle = speckle
        self.noise = noise

    def randomize(self, data: tuple[int, int]) -> None:
        """Sample the fields for an image of this (height, width), or none."""
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
