"""What a scanner and the tissue above do to an image: resolution, shadows, gain along the depth.

The skin is on top, so that depth goes down the rows, and beams along the columns. The ``Random…d``
transforms only sample; ``blur``, ``shade_band`` and ``adjust_depth_gain`` do the work, on
(1, H, W) float32 tensors in [0, 1]. Black stays black: nothing is painted beside the sector.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import Randomizable, Transform
from numpy.typing import NDArray

from busi_monai.transforms.sampling import Range, checked_part, checked_range, log_uniform

__all__ = [
    "AXIAL_PART",
    "DEPTH_GAIN_POINTS",
    "RandomBlurd",
    "RandomDepthGaind",
    "RandomShadowd",
    "adjust_depth_gain",
    "blur",
    "gain_curve",
    "shade_band",
]

AXIAL_PART = 0.5
"""The blur along the depth as a part of that across: a pulse is shorter than its beam is wide."""

DEPTH_GAIN_POINTS = 5
"""Control points of the gain from top to bottom, like the sliders of a console."""


class RandomBlurd(Randomizable, Transform):
    """Blur ``image``, as a probe of lower resolution would.

    Args:
        probability: how often.
        sigma: (smallest, largest) lateral standard deviation in pixels, drawn on a log scale; the
            axial one is ``AXIAL_PART`` of it.

    Raises:
        InputError: if an option is out of range.
    """

    def __init__(self, probability: float, sigma: Range) -> None:
        self.probability = checked_part("blur_probability", probability)
        self.sigma_range = checked_range("blur_sigma", sigma)

    def randomize(self, data: Any = None) -> None:
        """Sample a width, or none."""
        self.sigma: float | None = None
        if self.R.random_sample() < self.probability:
            self.sigma = log_uniform(self.R, self.sigma_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with a less sharp image."""
        item = dict(data)
        self.randomize()
        if self.sigma is not None:
            item["image"] = blur(item["image"], lateral=self.sigma, axial=self.sigma * AXIAL_PART)
        return item


class RandomShadowd(Randomizable, Transform):
    """Darken or brighten what lies below some place in ``image``, half of the time each.

    A shadow behind a lesion speaks for malignancy, and enhancement behind it for a cyst. The bands
    fall anywhere, on lesions by chance only: they teach a network that not every band means
    something, and may cost it some of what the real ones tell.

    Args:
        probability: how often.
        shadow: largest attenuation, in [0, 1], and largest enhancement: a factor between
            1 − ``shadow`` and 1 + ``shadow``.

    Raises:
        InputError: if an option is out of range.
    """

    def __init__(self, probability: float, shadow: float) -> None:
        self.probability = checked_part("shadow_probability", probability)
        self.shadow = checked_part("shadow", shadow)

    def randomize(self, data: Any = None) -> None:
        """Sample where a band lies and how dark or bright it is, or none."""
        self.band: dict[str, float] | None = None
        if self.R.random_sample() < self.probability:
            self.band = {
                "change": self.R.uniform(-self.shadow, self.shadow),
                "column": self.R.uniform(0, 1),
                "width": self.R.uniform(0.05, 0.3),
                "top": self.R.uniform(0.1, 0.7),
                "widening": self.R.uniform(0, 0.15),
                "softness": self.R.uniform(0.02, 0.08),
            }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with a shaded image."""
        item = dict(data)
        self.randomize()
        if self.band is not None:
            item["image"] = shade_band(item["image"], **self.band)
        return item


class RandomDepthGaind(Randomizable, Transform):
    """Brighten and darken ``image`` along the depth, as a wrong time-gain compensation does.

    Args:
        probability: how often.
        depth_gain: largest relative deviation at each of ``DEPTH_GAIN_POINTS`` depths, in [0, 1].

    Raises:
        InputError: if an option is out of range.
    """

    def __init__(self, probability: float, depth_gain: float) -> None:
        self.probability = checked_part("depth_gain_probability", probability)
        self.depth_gain = checked_part("depth_gain", depth_gain)

    def randomize(self, data: Any = None) -> None:
        """Sample the deviations from top to bottom, or none."""
        self.deviations: Sequence[float] | None = None
        if self.R.random_sample() < self.probability:
            self.deviations = self.R.uniform(
                -self.depth_gain, self.depth_gain, size=DEPTH_GAIN_POINTS
            ).tolist()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with another gain."""
        item = dict(data)
        self.randomize()
        if self.deviations is not None:
            item["image"] = adjust_depth_gain(item["image"], self.deviations)
        return item


def blur(image: torch.Tensor, *, lateral: float, axial: float) -> torch.Tensor:
    """Return a (1, H, W) float32 tensor blurred by a Gaussian; its edges are continued.

    Args:
        image: the image.
        lateral: standard deviation along the rows, across the beams, in pixels.
        axial: standard deviation along the depth, in pixels.
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
    """Return ``image`` in [0, 1] times 1 + ``gain_curve`` along the rows, clipped to [0, 1].

    Args:
        image: (1, H, W) float32.
        deviations: relative deviations at evenly spaced depths, from the first row to the last.
    """
    curve = torch.from_numpy(gain_curve(image.shape[-2], deviations))
    return (image * (1 + curve)[:, None]).clamp_(0, 1)


def gain_curve(rows: int, deviations: Sequence[float]) -> NDArray[np.float32]:
    """Return a smooth curve through evenly spaced points, never beyond two neighbouring ones.

    Args:
        rows: length of the curve.
        deviations: at least two values, the first for the first row, the last for the last.

    Examples:
        >>> gain_curve(3, [0.0, 1.0]).tolist()
        [0.0, 0.5, 1.0]
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
