from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from busi_monai.cases import CLASSES


def _make_table(images: int = 200, seed: int = 0, groups: int | None = 60) -> pd.DataFrame:
    """A table as ``busi-monai evaluate`` writes it, with plausible numbers."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, images)
    logits = rng.normal(size=(images, 3)) + 1.5 * np.eye(3)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    lesion = true > 0
    found = np.where(lesion, rng.random(images) < 0.95, rng.random(images) < 0.2)
    overlap = np.where(lesion & found, rng.uniform(0.3, 0.95, images), 0.0)
    dice = np.where(~lesion & ~found, 1.0, overlap)
    table = pd.DataFrame(
        {
            "id": [f"case ({index})" for index in range(images)],
            "image": "x.png",
            "true_class": [CLASSES[index] for index in true],
            "predicted_class": [CLASSES[index] for index in predicted],
            **{f"p_{name}": probabilities[:, index] for index, name in enumerate(CLASSES)},
            "lesion_pixels": np.where(found, 500.0, 0.0),
            "true_lesion_pixels": np.where(lesion, 600.0, 0.0),
            "dice": dice,
            "iou": dice / (2 - dice),
            "mean_iou": 0.5 + dice / 2,
            "pixel_accuracy": rng.uniform(0.9, 1, images),
            "hd95_px": np.where(lesion & found, 12.0, np.where(lesion | found, np.nan, 0.0)),
            "group": "" if groups is None else rng.integers(0, groups, images).astype(str),
            "seconds": 0.03,
            "error": "",
        }
    )
    return table


@pytest.fixture(scope="session")
def make_table() -> Callable[..., pd.DataFrame]:
    """``make_table(images, seed, groups)``."""
    return _make_table


@pytest.fixture
def table() -> pd.DataFrame:
    return _make_table()
