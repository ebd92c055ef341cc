"""From an image as found to the network's input, the same for every way to a prediction."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, MapTransform, NormalizeIntensityd
from monai.utils import TraceKeys
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pad

from busi_monai.datasets import clean_mask
from busi_monai.imaging.prediction import equalise_contrast, fitted_place, median_filter
from busi_monai.settings import InferenceSettings
from busi_monai.transforms.batches import plain
from busi_monai.transforms.lesion_crop import CropToLesiond
from busi_monai.transforms.loading import LoadLesionMaskd, LoadUltrasoundd

__all__ = ["FilterPixelsd", "FitToNetworkd", "KeepNativeLabeld", "prediction_preprocessing"]

# MONAI 1.6 writes these names into every history, but doesn't let PersistentDataset read them back
torch.serialization.add_safe_globals([TraceKeys])


def prediction_preprocessing(
    settings: InferenceSettings, *, with_label: bool = False, clean_labels: bool = False
) -> Compose:
    """Return what every image goes through before the network, deterministic throughout.

    Load → median filter and CLAHE where asked for → crop to the known lesion if the network was
    trained so → resize (bicubic with antialiasing, clipped to [0, 1]; masks nearest) → normalise.
    A crop needs the mask: without it the whole image is taken. Z-scores are taken over the whole
    network input, the black border of ``aspect="pad"`` included.

    Args:
        settings: image size, aspect, filters, lesion crop and normalisation.
        with_label: whether the mask under ``label`` is loaded too.
        clean_labels: whether that mask passes through ``busi_monai.datasets.clean_mask``;
            ``native_label``, which is measured against, stays as found.

    Returns:
        A transform of items ``{"image": path or array, …}`` to ``image``: float32 ``MetaTensor``
        (1, h, w) whose history leads back to native size. ``with_label`` adds ``label``: float32
        (1, h, w) of 0 and 1, all −1 where the item has no mask, and ``native_label``: uint8
        (1, H, W), which is absent where the item has no mask.

    Raises:
        RuntimeError: (when called) by MONAI, from the ``ImageReadError`` of an image or mask that
            cannot be read or whose sizes differ.
    """
    keys = ("image", "label") if with_label else ("image",)
    steps: list[MapTransform] = [LoadUltrasoundd("image")]
    if with_label:
        steps += [LoadLesionMaskd("label", allow_missing_keys=True), KeepNativeLabeld("label")]
        if clean_labels:
            steps.append(FilterPixelsd("label", clean_mask))
    if settings.median_filter > 1:
        steps.append(FilterPixelsd("image", partial(median_filter, size=settings.median_filter)))
    if settings.clahe:
        steps.append(FilterPixelsd("image", equalise_contrast))
    if settings.lesion_crop is not None:
        steps.append(CropToLesiond(keys, settings.lesion_crop.margin))
    steps.append(FitToNetworkd(keys, settings.image_size, settings.aspect))
    if with_label:
        steps.append(_MissingLabeld(settings.image_size))
    if settings.normalisation == "zscore":
        steps.append(NormalizeIntensityd("image"))
    # MONAI would print the whole item for each bad file
    return Compose(steps, log_stats=False)


class KeepNativeLabeld(MapTransform):
    """Keep a uint8 copy of the mask at native size as ``native_…`` before it is resized."""

    def __init__(self, keys: KeysCollection = "label") -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with ``native_label`` beside ``label``."""
        kept = dict(data)
        for key in self.key_iterator(kept):
            kept[f"native_{key}"] = kept[key].to(torch.uint8)
        return kept


class _MissingLabeld(MapTransform):
    """Give items without a mask one of all −1, which the loss leaves out, so that batches collate.

    Args:
        size: (height, width) of the network's input.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__("label", allow_missing_keys=True)
        self.size = tuple(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its mask there."""
        item = dict(data)
        return item if "label" in item else {**item, "label": torch.full((1, *self.size), -1.0)}


class FilterPixelsd(MapTransform):
    """Apply a function of arrays to (1, H, W) images or masks; size and meta stay.

    Args:
        keys: their keys; items may lack them.
        function: takes and returns (H, W).
    """

    def __init__(self, keys: KeysCollection, function: Callable[..., NDArray[Any]]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.function = function

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with float32 results."""
        item = dict(data)
        for key in self.key_iterator(item):
            found = np.ascontiguousarray(self.function(item[key][0].numpy()), dtype=np.float32)
            item[key] = _like(torch.from_numpy(found)[None], item[key])
        return item


class FitToNetworkd(MapTransform, InvertibleTransform):
    """Resize to the network's size, stretched or padded with 0 around the centre; invertible.

    The first key is an image (bicubic with antialiasing, clipped to [0, 1]), further ones are masks
    (nearest). MONAI's ``Resize`` with antialiasing takes 5.5 ms for a BUSI image against 0.6 ms for
    torch's own antialiased interpolation, keeps the aspect ratio only for square sizes, and goes
    back to native size with the bicubic interpolation it came with. Half-pixel centres in both
    directions (``nearest-exact``, ``align_corners=False``), so nothing shifts.

    Args:
        keys: keys of (1, H, W) tensors, which items may lack; a ``MetaTensor`` remembers the way
            back.
        size: (height, width) of the network's input.
        aspect: ``stretch`` or ``pad``.
    """

    def __init__(self, keys: KeysCollection, size: Sequence[int], aspect: str = "stretch") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.size = (int(size[0]), int(size[1]))
        self.keep_aspect = aspect == "pad"

    def get_transform_info(self) -> dict[str, Any]:
        """Return MONAI's trace entry, valid in every process.

        The object's address, which MONAI compares, differs in spawned workers and after pickling.
        """
        return {**super().get_transform_info(), TraceKeys.ID: TraceKeys.NONE}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images and masks at the network's size."""
        item = dict(data)
        for key in self.key_iterator(item):
            source = item[key]
            native = tuple(source.shape[-2:])
            inner, (top, left) = fitted_place(native, self.size, keep_aspect=self.keep_aspect)
            values = _resized(plain(source), inner, is_mask=key != self.keys[0])
            below, right = self.size[0] - inner[0] - top, self.size[1] - inner[1] - left
            if inner != self.size:
                values = pad(values, (left, right, top, below))
            item[key] = _like(values, source)
            if isinstance(source, MetaTensor):
                place = {"inner": list(inner), "corner": [top, left]}
                self.push_transform(item[key], orig_size=native, extra_info=place)
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item at native size, resampled bilinearly: for probabilities, not for masks.

        Raises:
            ValueError: if a tensor does not carry the history of this transform.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            info = self.pop_transform(item[key])
            place = info[TraceKeys.EXTRA_INFO]
            (height, width), (top, left) = place["inner"], place["corner"]
            values = plain(item[key])[..., top : top + height, left : left + width]
            size = tuple(int(side) for side in info[TraceKeys.ORIG_SIZE])
            enlarged = interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
            earlier = item[key].applied_operations  # a crop before it, to be inverted next
            item[key] = _like(enlarged, item[key]) if earlier else enlarged
        return item


def _resized(values: torch.Tensor, size: tuple[int, int], *, is_mask: bool) -> torch.Tensor:
    if tuple(values.shape[-2:]) == size:
        return values
    if is_mask:
        return interpolate(values[None], size=size, mode="nearest-exact")[0]
    resized = interpolate(
        values[None], size=size, mode="bicubic", align_corners=False, antialias=True
    )
    return resized[0].clamp_(0, 1)


def _like(values: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Return values with the meta of their source, where it has any."""
    return MetaTensor(values).copy_meta_from(source) if isinstance(source, MetaTensor) else values
