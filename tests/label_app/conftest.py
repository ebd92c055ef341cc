"""Studies folders of phantoms, and what annotators would submit of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from busi_monai.io.images import read_mask, write_png

Submit = Callable[..., Path]


@pytest.fixture
def studies(phantom_busi: Path, tmp_path: Path) -> Path:
    """Twelve phantoms in one folder, four of each class."""
    folder = tmp_path / "Studies (é)"
    folder.mkdir()
    for name in ("normal", "benign", "malignant"):
        for number in range(1, 5):
            shutil.copy(phantom_busi / name / f"{name} ({number}).png", folder)
    return folder


def lesion_of(phantoms: Path, image_id: str) -> np.ndarray:
    """Return the mask that belongs to a phantom, (H, W) of 0 and 1."""
    folder = phantoms / image_id.split(maxsplit=1)[0]
    with Image.open(folder / f"{image_id}.png") as image:
        mask = np.zeros(image.size[::-1], dtype=np.uint8)
    for path in folder.glob(f"{image_id}_mask*.png"):
        mask |= read_mask(path).astype(np.uint8)
    return mask


@pytest.fixture
def truth_of(phantom_busi: Path) -> Callable[[str], np.ndarray]:
    return lambda image_id: lesion_of(phantom_busi, image_id)


@pytest.fixture
def submit(truth_of: Callable[[str], np.ndarray]) -> Submit:
    """Leave a label in a studies folder as a server of ours does."""

    def write(studies: Path, image_id: str, mask: np.ndarray | None = None, **info: Any) -> Path:
        folder = studies / "labels" / "final"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{image_id}.png"
        write_png(path, truth_of(image_id) if mask is None else mask)
        told = {
            "class": image_id.split(maxsplit=1)[0],
            "client_id": "anna",
            "ts": 1767225600,
            **info,
        }
        (folder / f"{image_id}.json").write_text(json.dumps(told), encoding="utf-8")
        return path

    return write
