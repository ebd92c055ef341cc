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
    load_image,
    mask_sha256,
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

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the images under ``keys`` read."""
        item = dict(data)
        for key in self.key_iterator(item):
            source, name, frame = item[key], "", None
            if isinstance(source, (str, Path, ImageBytes)):
                name = str(source)
            elif isinstance(source, ImageFile):
                name, frame = str(source.source), source.frame
            loaded = load_image(source)
            item[key] = _tensor(loaded, name, frame)
        return item


class LoadLesionMaskd(MapTransform):
    """Read a lesion mask: (1, H, W) float32 tensor of 0 and 1.

    Takes a path, read by ``busi_monai.io.images.read_mask``, or an (H, W) array in which every
    non-zero pixel belongs to the lesion. A mask given as ``None`` counts as absent. A mask file
    must hold what the item states as ``label_sha256``, if it does: one that was edited in a
    prepared folder would be trained or measured on under the name of the one that is listed.

    Raises:
        ImageReadError: if the mask cannot be read, or its size is not that of the item's ``image``.
        InputError: if it is another mask than the item states.
    """

    def __init__(self, keys: KeysCollection = "label", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the masks under ``keys`` read."""
        absent = {key for key in self.keys if key in data and data[key] is None}
        loaded = {key: value for key, value in data.items() if key not in absent}
        for key in self.key_iterator(loaded):
            source, image = loaded[key], loaded.get("image")
            in_file = isinstance(source, (str, Path))
            name = str(source) if in_file else "array"
            mask = read_mask(source) if in_file else _mask_from_array(source)
            if isinstance(image, torch.Tensor) and tuple(image.shape[1:]) != mask.shape:
                height, width = image.shape[1:]
                raise ImageReadError(
                    f"{name}: the mask has {mask.shape[1]}×{mask.shape[0]} pixels, its image "
                    f"{width}×{height}; give the mask that belongs to this image"
                )
            stated = loaded.get(f"{key}_sha256")
            if in_file and stated is not None:
                check_mask(mask, stated, name)
            loaded[key] = torch.from_numpy(mask.astype(np.float32))[None]
        return loaded


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


def _tensor(loaded: LoadedImage, name: str, frame: int | None) -> MetaTensor:
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
