from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busi_monai.cases import CLASSES
from busi_monai.evaluation import write_evaluation
from busi_monai.files import write_json

TRAINING = {
    "seed": 7,
    "epochs": 12,
    "seconds": 345.6,
    "network": {"parameters": 1234567, "flops": 8_000_000_000, "image_size": [64, 96]},
}

WriteSystem = Callable[..., Path]


def predictions(images: int = 60, seed: int = 0) -> pd.DataFrame:
    """A table as ``busi-monai evaluate`` writes it; the truth is the same for every seed."""
    truth, rng = np.random.default_rng(99), np.random.default_rng(seed)
    true = truth.integers(0, 3, images)
    groups = truth.integers(0, images // 3, images)
    logits = rng.normal(size=(images, 3)) + np.eye(3)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    lesion = true > 0
    found = np.where(lesion, rng.random(images) < 0.9, rng.random(images) < 0.3)
    dice = np.where(lesion & found, rng.uniform(0.3, 0.8, images), np.where(lesion | found, 0, 1))
    return pd.DataFrame(
        {
            "id": [f"case ({index})" for index in range(images)],
            "image": "x.png",
            "true_class": [CLASSES[index] for index in true],
            "predicted_class": [CLASSES[index] for index in probabilities.argmax(axis=1)],
            **{f"p_{name}": probabilities[:, index] for index, name in enumerate(CLASSES)},
            "lesion_pixels": np.where(found, 500, 0),
            "true_lesion_pixels": np.where(lesion, 600 + np.arange(images), 0),
            "dice": dice,
            "iou": dice / (2 - dice),
            "mean_iou": 0.5 + dice / 2,
            "pixel_accuracy": 0.9,
            "hd95_px": np.where(lesion & found, rng.uniform(5, 20, images), np.nan),
            "group": groups.astype(str),
            "seconds": 0.25,
            "error": "",
        }
    )


@pytest.fixture
def write_system(tmp_path: Path) -> WriteSystem:
    """``write_system(name, table, **provenance)`` makes a run with an evaluation in it."""

    def write(name: str, table: pd.DataFrame, **provenance: object) -> Path:
        folder = tmp_path / name / "evaluation"
        folder.mkdir(parents=True)
        table.to_csv(folder / "predictions.csv", index=False)
        known = {"protocol": ["leakfree"], "split": "reported", "fold": 0}
        known |= {"datalist_sha256": ["ab" * 32], "leaks": {"count": 0, "evaluation_images": 60}}
        write_evaluation(folder, provenance={**known, **provenance}, resamples=5, figures=False)
        write_json(folder / "run.json", {"training": TRAINING, "device": {"name": "cpu"}})
        return folder.parent

    return write
