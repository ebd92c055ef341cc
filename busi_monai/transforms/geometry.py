"""Where things lie: mirror, rotate, zoom, move and crop an image and its mask in one warp.

``RandomGeometryd`` only samples; ``affine_matrix``, ``crop_matrix``, ``chain`` and ``warp`` do the
work, on (1, H, W) float32 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable

from busi_monai.transforms.sampling import Range, checked_part, checked_range, log_uniform

__all__ = [
    "CROP_DRAWS",
    "LESION_IN_VIEW",
    "RandomGeometryd",
    "affine_matrix",
    "chain",
    "crop_matrix",
    "part_in_view",
    "warp",
]

CROP_DRAWS = 4
"""How many crops are drawn at most to find one that keeps the lesion."""

LESION_IN_VIEW = 0.5
"""The part of a lesion's pixels that a crop has to leave in the image."""


class RandomGeometryd(MapTransform, Randomizable):
    """Mirror, rotate, zoom, move and crop ``image`` (linear) and ``label`` (nearest) alike.

    What comes from outside is black and no lesion. See ``training_augmentation`` for the options.

    A crop cuts lesions, as a narrow field of view does, but an image whose lesion is gone would
    carry a wrong class. So a crop after which less than half of the mask's lesion pixels are in
    view is drawn again, up to ``CROP_DRAWS`` times in all, and then left out. An image without a
    known mask is not cropped: nobody could tell what it loses. One with an empty mask always may.
    """

    def __init__(
        self,
        flip_probability: float,
        affine_probability: float,
        rotation_degrees: float,
        scale_range: Range,
        translate: float,
        crop_probability: float = 0.0,
        crop_scale: Range = (0.6, 1.0),
    ) -> None:
        super().__init__(("image", "label"), allow_missing_keys=True)
        self.flip_probability = checked_part("flip_probability", flip_probability)
        self.affine_probability = checked_part("affine_probability", affine_probability)
        self.crop_probability = checked_part("crop_probability", crop_probability)
        self.rotation_degrees = rotation_degrees
        self.scale_range = checked_range("scale_range", scale_range)
        self.translate = translate
        self.crop_scale = checked_range("crop_scale", crop_scale, limit=1)

    def randomize(self, data: tuple[int, int]) -> None:
        """Sample whether to mirror, the matrix, and the crops, for an image of (height, width)."""
        self.flip = bool(self.R.random_sample() < self.flip_probability)
        self.matrix: np.ndarray | None = None
        if self.R.random_sample() < self.affine_probability:
            self.matrix = affine_matrix(
                data,
                rotation_degrees=self.R.uniform(-self.rotation_degrees, self.rotation_degrees),
                scale=log_uniform(self.R, self.scale_range),
                shift=self.R.uniform(-self.translate, self.translate, size=2),
            )
        self.crops: list[np.ndarray] = []
        # without crops, nothing more is drawn: the images are those of a run that knows of none
        if self.crop_probability and self.R.random_sample() < self.crop_probability:
            for _ in range(CROP_DRAWS):
                part = self.R.uniform(*self.crop_scale, size=2)
                self.crops.append(crop_matrix(data, part=part, place=self.R.random_sample(2)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with image and label moved."""
        item = dict(data)
        self.randomize(tuple(item["image"].shape[-2:]))
        known = "label" in item and float(item["label"].min()) >= 0
        moved = [key for key in self.key_iterator(item) if key == "image" or known]
        if self.flip:
            item |= {key: torch.flip(item[key], (-1,)) for key in moved}
        matrix = self._cropped(item["label"]) if known and self.crops else self.matrix
        if matrix is not None:
            item |= {key: warp(item[key], matrix, nearest=key == "label") for key in moved}
        return item

    def _cropped(self, label: torch.Tensor) -> np.ndarray | None:
        """Return the matrix with the first crop that leaves enough of the lesion in view."""
        for crop in self.crops:
            matrix = crop if self.matrix is None else chain(self.matrix, crop)
            if part_in_view(label, matrix) >= LESION_IN_VIEW:
                return matrix
        return self.matrix


def affine_matrix(
    size: tuple[int, int], *, rotation_degrees: float, scale: float, shift: Sequence[float]
) -> np.ndarray:
    """Return the (2, 3) matrix that takes an output pixel (x, y, 1) to its input pixel.

    Args:
        size: (height, width) in pixels.
        rotation_degrees: anticlockwise rotation about the image's centre.
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


def crop_matrix(
    size: tuple[int, int], *, part: Sequence[float], place: Sequence[float]
) -> np.ndarray:
    """Return the (2, 3) matrix, as ``affine_matrix``, that fills the image with a part of it.

    Args:
        size: (height, width) in pixels.
        part: how much of the height and of the width is kept, in (0, 1].
        place: where the part lies, (down, right): 0 at the top or left, 1 at the bottom or right.

    Examples:
        The lower right quarter of 4×4 pixels; the first output pixel's centre lies in the first
        quarter of the input pixel (2, 2):

        >>> crop_matrix((4, 4), part=(0.5, 0.5), place=(1, 1))
        array([[0.5 , 0.  , 1.75],
               [0.  , 0.5 , 1.75]])
    """
    rows, columns = (
        (kept, (1 - kept) * side * where + (kept - 1) / 2)
        for kept, side, where in zip(part, size, place, strict=True)
    )
    return np.array([[columns[0], 0.0, columns[1]], [0.0, rows[0], rows[1]]])


def chain(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the (2, 3) matrix of both: ``warp`` by ``inner`` first, then by ``outer``.

    In one warp an image is resampled only once, and turning it brings in what lies beyond the
    crop instead of black.
    """
    return inner @ np.vstack([outer, [0, 0, 1]])


def warp(image: torch.Tensor, matrix: np.ndarray, *, nearest: bool = False) -> torch.Tensor:
    """Return a (1, H, W) float32 tensor resampled by OpenCV, linearly or to the nearest pixel.

    ``matrix`` (2, 3) takes output to input pixels; 0 comes in from outside.
    """
    height, width = image.shape[-2:]
    flags = (cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(image[0].contiguous().numpy(), matrix, (width, height), flags=flags)
    return torch.from_numpy(warped)[None]


def part_in_view(mask: torch.Tensor, matrix: np.ndarray) -> float:
    """Return the part of a mask's lesion pixels that ``warp`` leaves in the image.

    An empty (1, H, W) mask loses nothing.

    Examples:
        >>> mask = torch.ones(1, 10, 10)
        >>> part_in_view(mask, crop_matrix((10, 10), part=(0.5, 1), place=(0, 0)))
        0.5
    """
    lesion = mask[0].numpy() > 0
    pixels = np.count_nonzero(lesion)
    if not pixels:
        return 1.0
    size = mask.shape[-2:]
    rows, columns = (np.arange(side, dtype=np.float32) for side in size)
    for (along_x, along_y, start), side in zip(
        cv2.invertAffineTransform(matrix).astype(np.float32), reversed(size), strict=True
    ):
        place = (along_y * rows + start)[:, None] + along_x * columns
        lesion &= np.abs(place - (side - 1) / 2) < side / 2
    return float(np.count_nonzero(lesion) / pixels)
