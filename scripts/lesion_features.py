"""Measure the lesions of a prepared folder: how deep they lie, how dark they are, what is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.files import read_json
from busi_monai.io.images import read_image, read_mask

__all__ = ["measured_features"]

RING = 0.25
"""Width of the ring around a lesion, as part of the diameter of a circle of its area."""


def measured_features(prepared: Path) -> pd.DataFrame:
    """Measure the lesions of a prepared folder and read what its audit found.

    Returns:
        A row per image: ``id``; ``depth`` of the lesion's centre (0 top, 1 bottom) and ``contrast``
        (its mean grey less that of the ring around it, of [0, 1]), NaN without a lesion;
        ``several_masks``, ``text``, ``markers``, ``other_outline`` (a near-duplicate is the same
        image with another outline) as 0 or 1.
    """
    content, audit = read_json(prepared / "datalist.json"), read_json(prepared / "audit.json")
    artefacts = audit["artefacts"]
    members = {
        "several_masks": set(audit["multi_mask"]),
        "text": set(artefacts.get("text", ())),
        "markers": set(artefacts.get("markers", ())),
        "other_outline": {pair[end] for pair in audit["disagreeing_masks"] for end in "ab"},
    }
    rows = []
    for item in [*content["training"], *content["validation"], *content["test"]]:
        mask = read_mask(prepared / item["label"])
        pixels = read_image(prepared / item["image"]).pixels
        depth, contrast = _depth_and_contrast(pixels, mask)
        flags = {name: int(item["id"] in ids) for name, ids in members.items()}
        rows.append({"id": item["id"], "depth": depth, "contrast": contrast, **flags})
    return pd.DataFrame(rows)


def _depth_and_contrast(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[float, float]:
    if not mask.any():
        return np.nan, np.nan
    depth = (np.nonzero(mask)[0].mean() + 0.5) / len(mask)
    width = max(1, round(RING * 2 * np.sqrt(mask.sum() / np.pi)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    ring = (cv2.dilate(mask.astype(np.uint8), disc) > 0) & ~mask
    contrast = pixels[mask].mean() - pixels[ring].mean() if ring.any() else np.nan
    return round(float(depth), 4), round(float(contrast), 4)
