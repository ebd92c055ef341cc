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
from busi_monai.imaging.prediction import Box, box_with_margin
from busi_monai.metrics import lesion_box
from busi_monai.transforms.batches import plain

__all__ = ["CropToLesiond", "RandomCropToLesiond"]

logger = logging.getLogger(__name__)

_LABEL = "label"


class CropToLesiond(MapTransform, InvertibleTransform):
    """Crop image and mask to the known lesion's box plus a margin, at native resolution.

    The box holds every lesion of the mask ``label``. Without a mask (prediction on a folder; −1
    anywhere in it counts as none), or with an empty one, the whole image stays; the first is said
    once in the log, since a network that was trained on crops knows nothing of whole images. The
    meta still tells the native ``spatial_shape``, and ``inverse`` puts a probability back in its
    place, 0 around it.

    Args:
        keys: keys of (1, H, W) tensors to crop alike.
        margin: part of the box's sides that is added on each side.

    Examples:
        >>> import torch
        >>> label = torch.zeros(1, 40, 60)
        >>> label[0, 10:20, 30:50] = 1
        >>> item = {"image": torch.rand(1, 40, 60), "label": label}
        >>> CropToLesiond(("image", "label"), margin=0.1)(item)["image"].shape
        torch.Size([1, 12, 24])
    """

    def __init__(self, keys: KeysCollection = ("image",), margin: float = 0.25) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.margin = margin
        self._warned = False

    def get_transform_info(self) -> dict[str, Any]:
        """Return MONAI's trace entry, valid in every process."""
        return {**super().get_transform_info(), TraceKeys.ID: TraceKeys.NONE}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images and masks cropped."""
        item = dict(data)
        height, width = next(item[key] for key in self.keys if key in item).shape[-2:]
        left, top, across, down = box = self._box(item, (int(height), int(width)))
        for key in self.key_iterator(item):
            source = item[key]
            # a copy: a view would keep the whole image in the cache
            item[key] = plain(source)[..., top : top + down, left : left + across].clone()
            if isinstance(source, MetaTensor):
                item[key] = MetaTensor(item[key]).copy_meta_from(source)
                self.push_transform(
                    item[key], orig_size=tuple(source.shape[-2:]), extra_info={"box": list(box)}
                )
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item at native size, 0 outside the crop."""
        item = dict(data)
        for key in self.key_iterator(item):
            info = self.pop_transform(item[key])
            left, top, width, height = info[TraceKeys.EXTRA_INFO]["box"]
            values = plain(item[key])
            size = (int(side) for side in info[TraceKeys.ORIG_SIZE])
            item[key] = values.new_zeros((*values.shape[:-2], *size))
            item[key][..., top : top + height, left : left + width] = values
        return item

    def _box(self, item: Mapping[Hashable, Any], size: tuple[int, int]) -> Box:
        found = _lesion_box(item)
        if found is not None:
            return box_with_margin(found, self.margin, size)
        if item.get(_LABEL) is None and not self._warned:
            self._warned = True
            logger.warning(
                "the network was trained on crops around known lesions, and %s comes without a "
                "mask: the whole image is taken, here and for all others without one; "
                "breast_ultrasound_two_stage finds the lesion by itself",
                getattr(item.get("image"), "meta", {}).get("filename_or_obj") or "an image",
            )
        return 0, 0, size[1], size[0]


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

    Raises:
        InputError: if ``jitter`` lies outside [0, 0.5], or the probability outside [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection = ("image",),
        margin: float = 0.25,
        jitter: float = 0.1,
        no_lesion_probability: float = 0.5,
    ) -> None:
        super().__init__(keys, margin)
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
        found = _lesion_box(item)
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
        if item.get(_LABEL) is None or not self.anywhere:
            return 0, 0, size[1], size[0]
        height, width = self.extent * size
        top, left = self.place * (np.array(size) - (height, width))
        return box_with_margin((left, top, width, height), 0, size)


def _lesion_box(item: Mapping[Hashable, Any]) -> Box | None:
    if item.get(_LABEL) is None:
        return None
    values = np.asarray(plain(item[_LABEL]))
    return None if (values < 0).any() else lesion_box(values.reshape(values.shape[-2:]) > 0)
