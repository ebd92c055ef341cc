"""How an image looks, varied in training: resolution, shadows, gain, grey levels, noise, marks.

The skin is on top, so that depth goes down the rows, and beams along the columns. The ``Random…d``
transforms only sample; functions do the work, on (1, H, W) float32 tensors in [0, 1]. Black stays
black but for noise and marks: nothing is painted beside the sector.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import Randomizable, Transform
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from busi_monai.imaging.drawn_marks import Calipers, TextLine, draw_calipers, draw_text
from busi_monai.transforms.sampling import Range, checked_part, checked_range, log_uniform

__all__ = [
    "AXIAL_PART",
    "DEPTH_GAIN_POINTS",
    "RandomBlurd",
    "RandomDepthGaind",
    "RandomGreyLevelsd",
    "RandomMarksd",
    "RandomNoised",
    "RandomShadowd",
    "adjust_contrast",
    "adjust_depth_gain",
    "adjust_gamma",
    "blur",
    "gain_curve",
    "plant_marks",
    "sample_calipers",
    "sample_text",
    "shade_band",
    "speckle_field",
]

AXIAL_PART = 0.5
"""The blur along the depth as a part of that across: a pulse is shorter than its beam is wide."""

DEPTH_GAIN_POINTS = 5
"""Control points of the gain from top to bottom, like the sliders of a console."""

_PIXEL = 1 / 192  # lengths of marks are pixels of an image whose shorter side is 192
_LETTERS = list("ABCDEFGHILMNOPQRSTUVX0123456789.")


class _RandomChanged(Randomizable, Transform):
    """Change ``image`` as often as asked, by what ``_draw`` samples and ``_changed`` does with it.

    An option that is out of range raises an ``InputError`` that names it.
    """

    def __init__(self, name: str, probability: float) -> None:
        self.probability = checked_part(f"{name}_probability", probability)

    def randomize(self, data: Any = None) -> None:
        """Sample what is to change, or nothing."""
        happens = self.R.random_sample() < self.probability
        self.drawn: dict[str, Any] | None = self._draw() if happens else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with another image."""
        item = dict(data)
        self.randomize()
        if self.drawn is not None:
            item["image"] = self._changed(item["image"], **self.drawn)
        return item

    def _draw(self) -> dict[str, Any]:
        raise NotImplementedError

    def _changed(self, image: torch.Tensor, **drawn: Any) -> torch.Tensor:
        raise NotImplementedError


class RandomBlurd(_RandomChanged):
    """Blur, as a probe of lower resolution would; ``sigma`` is drawn on a log scale."""

    def __init__(self, probability: float, sigma: Range) -> None:
        super().__init__("blur", probability)
        self.sigma_range = checked_range("blur_sigma", sigma)

    def _draw(self) -> dict[str, Any]:
        return {"sigma": log_uniform(self.R, self.sigma_range)}

    def _changed(self, image: torch.Tensor, **drawn: Any) -> torch.Tensor:
        return blur(image, lateral=drawn["sigma"], axial=drawn["sigma"] * AXIAL_PART)


class RandomShadowd(_RandomChanged):
    """Darken or brighten what lies below some place, half of the time each.

    A shadow behind a lesion speaks for malignancy, and enhancement behind it for a cyst. The bands
    fall anywhere, on lesions by chance only: they teach a network that not every band means
    something, and may cost it some of what the real ones tell.
    """

    def __init__(self, probability: float, shadow: float) -> None:
        super().__init__("shadow", probability)
        self.shadow = checked_part("shadow", shadow)

    def _draw(self) -> dict[str, Any]:
        return {
            "change": self.R.uniform(-self.shadow, self.shadow),
            "column": self.R.uniform(0, 1),
            "width": self.R.uniform(0.05, 0.3),
            "top": self.R.uniform(0.1, 0.7),
            "widening": self.R.uniform(0, 0.15),
            "softness": self.R.uniform(0.02, 0.08),
        }

    def _changed(self, image: torch.Tensor, **drawn: Any) -> torch.Tensor:
        return shade_band(image, **drawn)


class RandomDepthGaind(_RandomChanged):
    """Brighten and darken along the depth, as a wrong time-gain compensation does."""

    def __init__(self, probability: float, depth_gain: float) -> None:
        super().__init__("depth_gain", probability)
        self.depth_gain = checked_part("depth_gain", depth_gain)

    def _draw(self) -> dict[str, Any]:
        limit = self.depth_gain
        return {"deviations": self.R.uniform(-limit, limit, size=DEPTH_GAIN_POINTS).tolist()}

    def _changed(self, image: torch.Tensor, **drawn: Any) -> torch.Tensor:
        return adjust_depth_gain(image, drawn["deviations"])


class RandomMarksd(_RandomChanged):
    """Plant calipers, a line of text, or both, each a third of the time.

    In public sets, marks stand around lesions and hardly ever in normal images: a network may learn
    them in place of the lesion. Planted ones fall independently of lesion and class.
    """

    def __init__(self, probability: float) -> None:
        super().__init__("marks", probability)

    def _draw(self) -> dict[str, Any]:
        kind = self.R.randint(3)
        return {
            "calipers": sample_calipers(self.R) if kind != 1 else None,
            "text": sample_text(self.R) if kind != 0 else None,
        }

    def _changed(self, image: torch.Tensor, **drawn: Any) -> torch.Tensor:
        return plant_marks(image, **drawn)


class RandomGreyLevelsd(_RandomChanged):
    """Change gamma and contrast, both drawn on a log scale."""

    def __init__(self, probability: float, gamma: Range, contrast: Range) -> None:
        super().__init__("grey", probability)
        self.gamma_range = checked_range("gamma", gamma)
        self.contrast_range = checked_range("contrast", contrast)

    def _draw(self) -> dict[str, Any]:
        gamma = log_uniform(self.R, self.gamma_range)
        return {"gamma": gamma, "contrast": log_uniform(self.R, self.contrast_range)}

    def _changed(self, image: torch.Tensor, **drawn: Any) -> torch.Tensor:
        return adjust_contrast(adjust_gamma(image, drawn["gamma"]), drawn["contrast"])


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
        """Return the item with a noisier image, clipped to [0, 1]."""
        item = dict(data)
        self.randomize(tuple(item["image"].shape[-2:]))
        if self.speckle_field is not None:
            item["image"] = (item["image"] * (1 + self.speckle_field)).clamp_(0, 1)
        if self.noise_field is not None:
            item["image"] = (item["image"] + self.noise_field).clamp_(0, 1)
        return item

    def _noise(self) -> torch.Generator:
        # torch fills a field four times as fast as the RandomState that MONAI seeds
        return torch.Generator().manual_seed(int(self.R.randint(2**31)))


def blur(image: torch.Tensor, *, lateral: float, axial: float) -> torch.Tensor:
    """Return ``image`` blurred by a Gaussian of two deviations in pixels; its edges are continued.

    ``lateral`` is along the rows, across the beams; ``axial`` along the depth.
    """
    blurred = cv2.GaussianBlur(
        image[0].contiguous().numpy(),
        ksize=(0, 0),
        sigmaX=lateral,
        sigmaY=axial,
        borderType=cv2.BORDER_REPLICATE,
    )
    return torch.from_numpy(blurred)[None]


def shade_band(
    image: torch.Tensor,
    *,
    change: float,
    column: float,
    width: float,
    top: float,
    widening: float,
    softness: float,
) -> torch.Tensor:
    """Return ``image`` with a band from some depth to the bottom darkened or brightened.

    Args:
        image: (1, H, W) float32 in [0, 1].
        change: relative change inside the band; below 0 a shadow, above 0 enhancement.
        column: the band's middle as a part of the width.
        width: the band's width at its top as a part of the image's.
        top: where it begins as a part of the height, in [0, 1).
        widening: by how much it grows from its top to its bottom, as a part of its width.
        softness: over which part of the width and of the height its edges fade, centred on the
            lateral edges and downwards from the top.

    Returns:
        the image times 1 + ``change`` in the band, clipped to [0, 1].
    """
    height, width_px = image.shape[-2:]
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width_px, dtype=np.float32) + 0.5) / width_px
    rows, off_middle = rows[rows > top], np.abs(columns - column)
    reach = off_middle < width / 2 * (1 + widening) + softness / 2
    half_widths = width / 2 * (1 + widening * (rows - top) / (1 - top))
    lateral = _fade((half_widths[:, None] - off_middle[reach]) / softness + 0.5)
    factor = 1 + change * _fade((rows - top) / softness)[:, None] * lateral
    shaded = image.clone()
    shaded[0, height - len(rows) :, torch.from_numpy(reach)] *= torch.from_numpy(factor)
    return shaded.clamp_(0, 1)


def adjust_depth_gain(image: torch.Tensor, deviations: Sequence[float]) -> torch.Tensor:
    """Return ``image`` times 1 + ``gain_curve`` of ``deviations`` along the rows, in [0, 1]."""
    curve = torch.from_numpy(gain_curve(image.shape[-2], deviations))
    return (image * (1 + curve)[:, None]).clamp_(0, 1)


def gain_curve(rows: int, deviations: Sequence[float]) -> NDArray[np.float32]:
    """Return a smooth curve through evenly spaced points, never beyond two neighbouring ones.

    Args:
        rows: length of the curve.
        deviations: at least two values, the first for the first row, the last for the last.

    Examples:
        >>> gain_curve(9, [0.0, 1.0, 0.5])[::4].tolist()
        [0.0, 1.0, 0.5]
    """
    points = np.asarray(deviations, dtype=np.float32)
    place = np.linspace(0, len(points) - 1, rows, dtype=np.float32)
    before = np.minimum(place.astype(np.intp), len(points) - 2)
    part = _fade(place - before.astype(np.float32))
    return points[before] * (1 - part) + points[before + 1] * part


def _fade(values: NDArray[Any]) -> NDArray[Any]:
    """Return 0 below 0, 1 above 1, and a step without kinks between."""
    part = np.minimum(np.maximum(values, 0), 1)
    return part * part * (3 - 2 * part)


def adjust_gamma(image: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return ``image`` in [0, 1] to the power of ``gamma``; above 1 darkens."""
    return image.clamp(0, 1).pow(gamma)


def adjust_contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Return ``image`` with the deviations from its mean times ``factor``, clipped to [0, 1]."""
    mean = image.mean()
    return ((image - mean) * factor + mean).clamp_(0, 1)


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


def plant_marks(
    image: torch.Tensor, *, calipers: Calipers | None = None, text: TextLine | None = None
) -> torch.Tensor:
    """Return a copy of ``image`` with calipers and a line of text drawn in."""
    pixels = image[0].contiguous().numpy()
    if calipers is not None:
        pixels = draw_calipers(pixels, calipers)
    if text is not None:
        pixels = draw_text(pixels, text)
    return torch.from_numpy(pixels)[None]


def sample_calipers(state: np.random.RandomState) -> Calipers:
    """Return calipers around a random ellipse anywhere in the image.

    Crosses are upright, diagonal or, as some scanners tell two axes apart, one pair of each;
    half of them have dotted lines, and half have numbers.
    """
    longer = state.uniform(0.1, 0.6)
    return Calipers(
        centre=(state.uniform(0.15, 0.85), state.uniform(0.1, 0.8)),
        axes=(longer, longer * state.uniform(0.4, 1)),
        angle=state.uniform(-45, 45),
        arm=state.uniform(2, 4) * _PIXEL,
        stroke=_stroke(state),
        grey=state.uniform(0.6, 1),
        diagonal=((False, False), (True, True), (False, True))[state.randint(3)],
        dotted=bool(state.randint(2)),
        numbered=bool(state.randint(2)),
    )


def sample_text(state: np.random.RandomState) -> TextLine:
    """Return one to three words of letters and digits, near the top or in the lower third."""
    words = ["".join(state.choice(_LETTERS, state.randint(2, 8))) for _ in range(state.randint(3))]
    words.append("".join(state.choice(_LETTERS, 3)))
    top, bottom = ((0.04, 0.15), (0.67, 0.99))[state.randint(2)]
    return TextLine(
        text=" ".join(words),
        place=(state.uniform(-0.1, 0.8), state.uniform(top, bottom)),
        height=state.uniform(4, 9) * _PIXEL,
        stroke=_stroke(state),
        grey=state.uniform(0.6, 1),
    )


def _stroke(state: np.random.RandomState) -> float:
    return float(state.uniform(0.6, 1.4) * _PIXEL)
