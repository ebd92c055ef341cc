"""From a path or an array to a channel-first tensor: images and lesion masks."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from busi_monai.errors import ImageReadError, InputError
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import (
    ImageFile,
    LoadedImage,
    image_from_array,
    mask_sha256,
    read_image,
    read_mask,
)

__all__ = ["LoadLesionMaskd", "LoadUltrasoundd", "check_mask"]


class LoadUltrasoundd(MapTransform):
    """Read an image as one grey channel: (1, H, W) float32 ``MetaTensor`` in [0, 1].

    Takes a path (every format of ``busi_monai.io.images``), a file's content in memory, one image
    of a file (``ImageFile``), a ``LoadedImage`` that was read, or an (H, W) or (H, W, C) array. The
    meta holds:

    - ``filename_or_obj`` (empty for what was read already) and ``spatial_shape`` (H, W);
    - ``scale`` (``PixelScale.to_json``) and ``warnings`` (JSON of codes and messages);
    - ``canvas`` (top, left, height, width), of which the pixels are a part;
    - ``frame``, counted from 0, -1 for an image by itself.

    Rows stay the first axis.

    Raises:
        ImageReadError: if the image cannot be read; the message names the file and the reason.
    """

    def __init__(self, keys: KeysCollection = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the images under ``keys`` read."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            source = loaded[key]
            if isinstance(source, (str, Path, ImageBytes)):
                loaded[key] = _tensor(read_image(source), str(source))
            elif isinstance(source, ImageFile):
                loaded[key] = _tensor(read_image(source), str(source.source), source.frame)
            elif isinstance(source, LoadedImage):
                loaded[key] = _tensor(source, "")
            else:
                loaded[key] = _tensor(image_from_array(np.asarray(source)), "")
        return loaded


class LoadLesionMaskd(MapTransform):
    """Read a lesion mask: (1, H, W) float32 tensor of 0 and 1.

    Takes a path, read by ``busi_monai.io.images.read_mask``, or an (H, W) array in which every
    non-zero pixel belongs to the lesion. A mask given as ``None`` counts as absent. A mask file
    must hold what the item states as ``label_sha256``, if it does: one that was edited in a
    prepared folder would be trained or measured on under the name of the one that is listed.

    Args:
        keys: keys of the masks.
        allow_missing_keys: whether an item may lack them.
        image_key: key of the loaded image that the mask must match in size; not checked where
            the item has none.

    Raises:
        ImageReadError: if the mask cannot be read or its size differs from the image's.
        InputError: if it is another mask than the item states.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        allow_missing_keys: bool = False,
        image_key: str = "image",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the masks under ``keys`` read."""
        absent = {key for key in self.keys if key in data and data[key] is None}
        loaded = {key: value for key, value in data.items() if key not in absent}
        for key in self.key_iterator(loaded):
            source = loaded[key]
            name = str(source) if isinstance(source, (str, Path)) else "array"
            mask = read_mask(source) if name != "array" else _mask_from_array(source)
            self._check_size(mask, loaded.get(self.image_key), name)
            stated = loaded.get(f"{key}_sha256")
            if stated is not None and name != "array":
                check_mask(mask, stated, name)
            loaded[key] = torch.from_numpy(mask.astype(np.float32))[None]
        return loaded

    def _check_size(self, mask: NDArray[np.bool_], image: Any, name: str) -> None:
        if isinstance(image, torch.Tensor) and tuple(image.shape[1:]) != mask.shape:
            height, width = image.shape[1:]
            raise ImageReadError(
                f"{name}: the mask has {mask.shape[1]}×{mask.shape[0]} pixels, its image "
                f"{width}×{height}; give the mask that belongs to this image"
            )


def check_mask(mask: NDArray[np.bool_], stated: str, path: str | Path) -> None:
    """Refuse a mask file that holds another mask than the datalist lists for it.

    Raises:
        InputError: naming the file, and what to do.
    """
    if mask_sha256(mask) != stated:
        raise InputError(
            f"{path} holds another mask than the datalist lists (label_sha256 {stated[:12]}…): the "
            "file was changed after it was prepared. Change masks in the dataset and prepare it "
            "again; busi-monai verify lists all files that were changed"
        )


def _tensor(loaded: LoadedImage, name: str, frame: int | None = None) -> MetaTensor:
    meta = {
        "filename_or_obj": name,
        "spatial_shape": torch.tensor(loaded.pixels.shape),
        "scale": loaded.scale.to_json(),
        "warnings": json.dumps([asdict(warning) for warning in loaded.warnings]),
        "frame": torch.tensor(-1 if frame is None else frame),
        "canvas": torch.tensor(loaded.canvas or (0, 0, *loaded.pixels.shape)),
    }
    return MetaTensor(torch.from_numpy(loaded.pixels)[None], meta=meta)


def _mask_from_array(values: Any) -> NDArray[np.bool_]:
    mask = np.asarray(values) > 0
    if mask.ndim == 3 and 1 in {mask.shape[0], mask.shape[2]}:
        mask = mask[0] if mask.shape[0] == 1 else mask[..., 0]
    if mask.ndim != 2:
        raise ImageReadError(f"array: expected a mask of shape (H, W), found {mask.shape}")
    return mask
