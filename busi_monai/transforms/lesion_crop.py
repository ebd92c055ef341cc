"""The lesion's surroundings instead of the whole image: what a classifier of lesions sees."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable
from monai.utils import TraceKeys

from busi_monai.errors import InputError
from busi_monai.metrics import lesion_box

__all__ = ["CropToLesiond", "RandomCropToLesiond", "box_with_margin"]

logger = logging.getLogger(__name__)

Box = tuple[int, int, int, int]


def box_with_margin(
    box: tuple[float, float, float, float], margin: float, size: tuple[int, int]
) -> Box:
    """Return a box enlarged on each side by a part of its own sides, within the image.

    Args:
        box: (left, top, width, height) in pixels.
        margin: part of the box's width that is added left and right, and of its height above and
            below; negative to shrink.
        size: (height, width) of the image.

    Returns:
        (left, top, width, height) in whole pixels, at least one each way.

    Examples:
        >>> box_with_margin((40, 10, 20, 10), 0.25, (100, 64))
        (35, 8, 29, 14)
    """
    left, right = _side(box[0], box[2], margin, size[1])
    top, bottom = _side(box[1], box[3], margin, size[0])
    return left, top, right - left, bottom - top


class CropToLesiond(MapTransform, InvertibleTransform):
    """Crop image and mask to the known lesion's box plus a margin, at native resolution.

    The box holds every lesion of the mask. Without a mask (prediction on a folder), or with an
    empty one, the whole image stays; the first is said once in the log, since a network that was
    trained on crops knows nothing of whole images. The meta still tells the native
    ``spatial_shape``, and ``inverse`` puts a probability back in its place, 0 around it.

    Args:
        keys: keys of (1, H, W) tensors to crop alike.
        margin: part of the box's sides that is added on each side.
        label_key: key of the mask; −1 anywhere in it counts as no mask.

    Examples:
        >>> import torch
        >>> label = torch.zeros(1, 40, 60)
        >>> label[0, 10:20, 30:50] = 1
        >>> item = {"image": torch.rand(1, 40, 60), "label": label}
        >>> CropToLesiond(("image", "label"), margin=0.1)(item)["image"].shape
        torch.Size([1, 12, 24])
    """

    def __init__(
        self, keys: KeysCollection = ("image",), margin: float = 0.25, label_key: str = "label"
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.margin = margin
        self.label_key = label_key
        self._warned = False

    def get_transform_info(self) -> dict[str, Any]:
        """Return MONAI's trace entry, valid in every process."""
        return {**super().get_transform_info(), TraceKeys.ID: TraceKeys.NONE}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images and masks cropped."""
        item = dict(data)
        size = _size(item, self.keys)
        return self._cropped(item, self._box(item, size))

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item at native size, 0 outside the crop."""
        native = dict(data)
        for key in self.key_iterator(native):
            info = self.pop_transform(native[key])
            left, top, width, height = info[TraceKeys.EXTRA_INFO]["box"]
            values = _plain(native[key])
            size = tuple(int(side) for side in info[TraceKeys.ORIG_SIZE])
            whole = values.new_zeros((*values.shape[:-2], *size))
            whole[..., top : top + height, left : left + width] = values
            native[key] = whole
        return native

    def _box(self, item: Mapping[Hashable, Any], size: tuple[int, int]) -> Box:
        found = _lesion_box(item.get(self.label_key))
        if found is None:
            self._warn(item)
            return 0, 0, size[1], size[0]
        return box_with_margin(found, self.margin, size)

    def _cropped(self, item: dict[Hashable, Any], box: Box) -> dict[Hashable, Any]:
        left, top, width, height = box
        for key in self.key_iterator(item):
            source = item[key]
            # a copy: a view would keep the whole image in the cache
            values = _plain(source)[..., top : top + height, left : left + width].clone()
            if isinstance(source, MetaTensor):
                tracked = MetaTensor(values).copy_meta_from(source)
                self.push_transform(
                    tracked, orig_size=tuple(source.shape[-2:]), extra_info={"box": list(box)}
                )
                values = tracked
            item[key] = values
        return item

    def _warn(self, item: Mapping[Hashable, Any]) -> None:
        if self._warned or item.get(self.label_key) is not None:
            return
        self._warned = True
        logger.warning(
            "the network was trained on crops around known lesions, and %s comes without a mask: "
            "the whole image is taken, here and for all others without one; "
            "breast_ultrasound_two_stage finds the lesion by itself",
            getattr(item.get("image"), "meta", {}).get("filename_or_obj") or "an image",
        )


class RandomCropToLesiond(CropToLesiond, Randomizable):
    """``CropToLesiond`` for training: the box moves and grows a little, drawn anew every time.

    A predicted box is never quite the true one. And where a lesion is missed or imagined, a
    classifier that had seen normals only as whole images would take any crop for a lesion: so
    images without lesion are cropped at random places half of the time.

    Args:
        keys: keys of (1, H, W) tensors to crop alike.
        margin: part of the box's sides that is added on each side, in the mean.
        jitter: every side of the box moves by up to this part of the box's length, either way.
        no_lesion_probability: how often an image with an empty mask is cropped at random, to
            between a fifth and four fifths of each side.
        label_key: key of the mask.

    Raises:
        InputError: if ``jitter`` lies outside [0, 0.5], or the probability outside [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection = ("image",),
        margin: float = 0.25,
        jitter: float = 0.1,
        no_lesion_probability: float = 0.5,
        label_key: str = "label",
    ) -> None:
        super().__init__(keys, margin, label_key)
        if not 0 <= jitter <= 0.5:
            raise InputError(f"crop_jitter must lie in [0, 0.5], got {jitter}")
        if not 0 <= no_lesion_probability <= 1:
            raise InputError(
                f"no_lesion_crop_probability must lie in [0, 1], got {no_lesion_probability}"
            )
        self.jitter = jitter
        self.no_lesion_probability = no_lesion_probability

    @property
    def widest_margin(self) -> float:
        """The margin with which no draw reaches beyond the crop."""
        return self.jitter + self.margin * (1 + 2 * self.jitter)

    def randomize(self, data: Any = None) -> None:
        """Sample how far each side moves, and where and how large a crop without lesion is."""
        self.moves = self.R.uniform(-self.jitter, self.jitter, size=4)
        self.anywhere = bool(self.R.random_sample() < self.no_lesion_probability)
        self.extent = self.R.uniform(0.2, 0.8, size=2)
        self.place = self.R.random_sample(size=2)

    def _box(self, item: Mapping[Hashable, Any], size: tuple[int, int]) -> Box:
        self.randomize()
        found = _lesion_box(item.get(self.label_key))
        if found is not None:
            left, top, width, height = found
            west, north, east, south = self.moves
            moved = (
                left + west * width,
                top + north * height,
                width * (1 + east - west),
                height * (1 + south - north),
            )
            return box_with_margin(moved, self.margin, size)
        if item.get(self.label_key) is None or not self.anywhere:
            return 0, 0, size[1], size[0]
        height, width = self.extent * size
        top, left = self.place * (np.array(size) - (height, width))
        return box_with_margin((left, top, width, height), 0, size)


def _side(start: float, length: float, margin: float, limit: int) -> tuple[int, int]:
    low = min(max(round(start - margin * length), 0), limit - 1)
    high = max(min(round(start + length + margin * length), limit), low + 1)
    return low, high


def _lesion_box(label: Any) -> Box | None:
    if label is None:
        return None
    values = np.asarray(_plain(label))
    if (values < 0).any():
        return None
    return lesion_box(values.reshape(values.shape[-2:]) > 0)


def _size(item: Mapping[Hashable, Any], keys: tuple[Hashable, ...]) -> tuple[int, int]:
    height, width = next(item[key] for key in keys if key in item).shape[-2:]
    return int(height), int(width)


def _plain(tensor: Any) -> Any:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
