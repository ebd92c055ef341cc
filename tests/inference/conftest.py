from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from busi_monai.inference import Prediction, Predictor, export_bundle
from busi_monai.io.images import write_png


@pytest.fixture(scope="session")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, device="cpu")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An asymmetric image of 70×110 pixels."""
    rows, columns = np.mgrid[:70, :110]
    pixels = np.clip(rows * 1.3 + columns * 0.9 + 60 * np.sin(columns / 5), 0, 255)
    path = tmp_path_factory.mktemp("images") / "Bild (1) ä [x].png"
    write_png(path, pixels.astype(np.uint8))
    return path


@pytest.fixture
def prediction() -> Prediction:
    """A benign lesion of 20×30 pixels in an image of 70×110."""
    mask = np.zeros((70, 110), dtype=np.uint8)
    mask[10:30, 40:70] = 1
    return Prediction(
        mask=mask,
        probabilities={"normal": 0.1, "benign": 0.7, "malignant": 0.2},
        predicted_class="benign",
        lesion_pixels=600,
        lesion_fraction=600 / 7700,
        box=(40, 10, 30, 20),
        lesion_probability=mask.astype(np.float32),
        seconds=0.01,
    )


@pytest.fixture(scope="session")
def graph_bundle(tiny_bundle: Path, once: Callable[..., Path]) -> Path:
    """``tiny_bundle`` with its exported graph, by which a process predicts without torch."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    def make(bundle: Path) -> None:
        shutil.copytree(tiny_bundle, bundle)
        export_bundle(bundle)

    return once("graph bundle", make)
