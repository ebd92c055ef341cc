"""The twenty images that every door is asked about, and when two answers are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.inference import Prediction
from busi_monai.io.images import write_png
from busi_monai.phantoms import write_phantom_dataset

CLASSES = ("normal", "benign", "malignant")


def write_twenty(folder: Path, scratch: Path) -> Path:
    """Write nineteen phantoms of two shapes, and one asymmetric image that is no phantom."""
    for number, size in enumerate(((240, 320), (301, 207))):
        made = write_phantom_dataset(scratch / str(number), cases=10, seed=number, size=size)
        image_paths = [path for path in sorted(made.rglob("*.png")) if "_mask" not in path.name]
        for path in image_paths[: 10 - number]:
            write_png(folder / f"{number} {path.name}", np.asarray(Image.open(path).convert("L")))
    rows, columns = np.mgrid[:170, :310]
    pixels = np.clip(rows * 0.8 + columns * 0.4 + 60 * np.sin(columns / 5), 0, 255)
    write_png(folder / "asymmetric.png", pixels.astype(np.uint8))
    assert len(list(folder.iterdir())) == 20
    return folder


def assert_same(
    expected: Prediction, mask: np.ndarray, probabilities: Mapping[str, float], name: str
) -> None:
    """Compare an answer of full precision: the same mask, probabilities within 1e-5."""
    assert np.array_equal(mask > 0, expected.mask > 0), name
    assert set(probabilities) == set(CLASSES), name
    for of_class, probability in expected.probabilities.items():
        assert probabilities[of_class] == pytest.approx(probability, abs=1e-5), name
