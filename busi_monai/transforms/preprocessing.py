"""From an image as found to the network's input, the same for every way to a prediction."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, MapTransform, NormalizeIntensityd
from monai.utils import TraceKeys, convert_to_dst_type
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pad

from busi_monai.datasets import clean_mask
from busi_monai.errors import InputError
from busi_monai.settings import ASPECTS, InferenceSettings
from busi_monai.transforms.lesion_crop import CropToLesiond
from busi_monai.transforms.loading import LoadLesionMaskd, LoadUltrasoundd

__all__ = [
    "CleanLesionMaskd",
    "EqualiseContrastd",
    "FitToNetworkd",
    "KeepNativeLabeld",
    "MedianFilterd",
    "MissingLabeld",
    "prediction_preprocessing",
]

RESAMPLING = ("bicubic", "nearest-exact")
CLAHE_CLIP_LIMIT = 2.0
CLAHE_TILES = (8, 8)

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
            steps.append(CleanLesionMaskd("label"))
    if settings.median_filter > 1:
        steps.append(MedianFilterd("image", settings.median_filter))
    if settings.clahe:
        steps.append(EqualiseContrastd("image"))
    if settings.lesion_crop is not None:
        steps.append(CropToLesiond(keys, settings.lesion_crop.margin))
    steps.append(
        FitToNetworkd(
            keys,
            settings.image_size,
            settings.aspect,
            resampling=RESAMPLING[: len(keys)],
            allow_missing_keys=with_label,
        )
    )
    if with_label:
        steps.append(MissingLabeld("label", settings.image_size))
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


class CleanLesionMaskd(MapTransform):
    """Smooth (1, H, W) masks, fill their holes and drop their specks by ``clean_mask``."""

    def __init__(self, keys: KeysCollection = "label") -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with clean masks, float32 of 0 and 1."""
        cleaned = dict(data)
        for key in self.key_iterator(cleaned):
            mask = torch.from_numpy(clean_mask(np.asarray(cleaned[key][0]) > 0))
            cleaned[key] = convert_to_dst_type(mask[None], dst=cleaned[key])[0]
        return cleaned


class MissingLabeld(MapTransform):
    """Give items without a mask one of all −1, which the loss leaves out, so that batches collate.

    Args:
        keys: keys of the masks.
        size: (height, width) of the network's input.
    """

    def __init__(self, keys: KeysCollection, size: Sequence[int]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.size = tuple(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with every mask there."""
        missing = {key: torch.full((1, *self.size), -1.0) for key in self.keys if key not in data}
        return {**data, **missing}


class MedianFilterd(MapTransform):
    """Median filter against speckle, by OpenCV (MONAI's takes 39 ms for a BUSI image, this 0.2).

    Args:
        keys: keys of (1, H, W) images in [0, 1].
        size: odd side of the window in native pixels; above 5 the grey values are cut to 8 bits.

    Raises:
        InputError: if ``size`` is even or below 3.
    """

    def __init__(self, keys: KeysCollection, size: int) -> None:
        super().__init__(keys)
        if size < 3 or size % 2 == 0:
            raise InputError(f"the median filter's side must be odd and at least 3, got {size}")
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the images filtered."""
        filtered = dict(data)
        for key in self.key_iterator(filtered):
            pixels = filtered[key][0].numpy()
            if self.size <= 5:
                result = cv2.medianBlur(pixels, self.size)
            else:
                result = _from_8_bits(cv2.medianBlur(_to_8_bits(pixels), self.size))
            filtered[key] = _same_kind(result, filtered[key])
        return filtered


class EqualiseContrastd(MapTransform):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) by OpenCV, in 8 bits.

    Args:
        keys: keys of (1, H, W) images in [0, 1].
        clip_limit: highest slope of the equalisation relative to a flat histogram.
        tiles: number of tiles (down, across) that are equalised each on its own.
    """

    def __init__(
        self,
        keys: KeysCollection,
        clip_limit: float = CLAHE_CLIP_LIMIT,
        tiles: tuple[int, int] = CLAHE_TILES,
    ) -> None:
        super().__init__(keys)
        self.clip_limit = clip_limit
        self.tiles = tiles

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the images equalised."""
        # OpenCV's object can't be pickled for a worker, and costs microseconds to make
        equaliser = cv2.createCLAHE(self.clip_limit, (self.tiles[1], self.tiles[0]))
        equalised = dict(data)
        for key in self.key_iterator(equalised):
            pixels = _from_8_bits(equaliser.apply(_to_8_bits(equalised[key][0].numpy())))
            equalised[key] = _same_kind(pixels, equalised[key])
        return equalised


class FitToNetworkd(MapTransform, InvertibleTransform):
    """Resize to the network's size, stretched or padded with 0 around the centre; invertible.

    MONAI's ``Resize`` with antialiasing takes 5.5 ms for a BUSI image against 0.6 ms for
    torch's own antialiased interpolation, keeps the aspect ratio only for square sizes, and goes
    back to native size with the bicubic interpolation it came with. Half-pixel centres in both
    directions (``nearest-exact``, ``align_corners=False``), so nothing shifts.

    Args:
        keys: keys of (1, H, W) tensors; a ``MetaTensor`` remembers the way back.
        size: (height, width) of the network's input.
        aspect: ``stretch`` or ``pad``.
        resampling: for each key ``bicubic`` (antialiased, clipped to [0, 1]) or ``nearest-exact``.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        aspect: str = "stretch",
        resampling: Sequence[str] = ("bicubic",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if aspect not in ASPECTS:
            raise InputError(f"aspect must be one of {', '.join(ASPECTS)}, got {aspect!r}")
        if len(resampling) != len(self.keys) or not set(resampling) <= set(RESAMPLING):
            raise InputError(f"expected one of {RESAMPLING} for each key, got {resampling}")
        self.size = (int(size[0]), int(size[1]))
        self.aspect = aspect
        self.resampling = tuple(resampling)

    def get_transform_info(self) -> dict[str, Any]:
        """Return MONAI's trace entry, valid in every process.

        The object's address, which MONAI compares, differs in spawned workers and after pickling.
        """
        return {**super().get_transform_info(), TraceKeys.ID: TraceKeys.NONE}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images and masks at the network's size."""
        fitted = dict(data)
        for key, mode in self.key_iterator(fitted, self.resampling):
            source = fitted[key]
            inner, (top, left) = self._place(source.shape[-2:])
            values = _resample(_plain(source), inner, mode)
            below, right = self.size[0] - inner[0] - top, self.size[1] - inner[1] - left
            if (inner[0], inner[1]) != self.size:
                values = pad(values, (left, right, top, below))
            if isinstance(source, MetaTensor):
                tracked = MetaTensor(values).copy_meta_from(source)
                self.push_transform(
                    tracked,
                    orig_size=tuple(source.shape[-2:]),
                    extra_info={"inner": list(inner), "corner": [top, left]},
                )
                values = tracked
            fitted[key] = values
        return fitted

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item at native size, resampled bilinearly: for probabilities, not for masks.

        Raises:
            ValueError: if a tensor does not carry the history of this transform.
        """
        native = dict(data)
        for key in self.key_iterator(native):
            info = self.pop_transform(native[key])
            (height, width), (top, left) = (
                info[TraceKeys.EXTRA_INFO][name] for name in ("inner", "corner")
            )
            values = _plain(native[key])[..., top : top + height, left : left + width]
            size = tuple(int(side) for side in info[TraceKeys.ORIG_SIZE])
            enlarged = interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
            earlier = native[key].applied_operations  # a crop before it, to be inverted next
            native[key] = MetaTensor(enlarged).copy_meta_from(native[key]) if earlier else enlarged
        return native

    def _place(self, native: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return size and upper left corner of the resized image within the network's input."""
        if self.aspect == "stretch":
            return self.size, (0, 0)
        scale = min(self.size[0] / native[0], self.size[1] / native[1])
        height, width = (
            min(side, max(1, round(length * scale)))
            for side, length in zip(self.size, native, strict=True)
        )
        return (height, width), ((self.size[0] - height) // 2, (self.size[1] - width) // 2)


def _resample(values: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    if tuple(values.shape[-2:]) == size:
        return values
    if mode == "nearest-exact":
        return interpolate(values[None], size=size, mode=mode)[0]
    resized = interpolate(values[None], size=size, mode=mode, align_corners=False, antialias=True)
    return resized[0].clamp_(0, 1)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _same_kind(pixels: NDArray[np.float32], like: torch.Tensor) -> torch.Tensor:
    values = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    return MetaTensor(values).copy_meta_from(like) if isinstance(like, MetaTensor) else values


def _to_8_bits(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(pixels * 255).astype(np.uint8)


def _from_8_bits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255)
