"""MONAI Label's stock ``monaibundle`` app with bundles of ours, for proposals alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-env"
)

from monailabel.client import MONAILabelClient

from busi_monai.bundle.shipped import find_bundle
from busi_monai.inference import Prediction, Predictor
from tests.label_app.server import Server, free_port
from tests.serving.images import assert_same

pytestmark = pytest.mark.slow

RUN = "tiny_segmentation"  # the stock app guesses the task from the folder's name
RELEASED = "breast_ultrasound_segmentation_classification"
SHIM = Path(__file__).parent / "torchvision_shim"
"""Lets a torchvision built for CUDA be imported beside a CPU build of torch."""


def importable(environment: dict[str, str]) -> tuple[bool, str]:
    """Return whether the stock app's modules can be imported, and the reason if not."""
    words = [sys.executable, "-W", "ignore", "-c", "import monailabel.tasks.infer.bundle"]
    tried = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    return tried.returncode == 0, (tried.stderr.strip().splitlines() or [""])[-1]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """What the server needs besides: the shim only where torchvision does not load without it."""
    works, _ = importable({})
    if works:
        return {}
    paths = [str(SHIM), os.environ.get("PYTHONPATH", "")]
    shimmed = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    works, reason = importable(shimmed)
    if not works:
        pytest.skip(f"the stock app cannot be imported in this environment: {reason}")
    return shimmed


@pytest.fixture(scope="module")
def stock_app(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shipped = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
    if not shipped.is_dir():
        pytest.skip(f"MONAI Label's sample apps are not at {shipped}")
    app = tmp_path_factory.mktemp("stock") / "monaibundle"
    shutil.copytree(shipped, app)
    # last.pt is no file of weights, but the app would take it first
    shutil.copytree(tiny_run, app / "model" / RUN, ignore=shutil.ignore_patterns("last.pt"))
    shutil.copytree(find_bundle(), app / "model" / RELEASED)
    return app


@pytest.fixture(scope="module")
def server(
    stock_app: Path,
    twenty: Path,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    studies = shutil.copytree(twenty, folder / "studies")  # the server writes into it
    port = free_port()
    words = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    words += ["--app", str(stock_app), "--studies", str(studies), "--port", str(port)]
    settings = {
        "models": f"{RUN},{RELEASED}",
        "zoo_source": "local",
        "sam2": "false",
        "skip_trainers": "true",
    }
    for name, value in settings.items():
        words += ["--conf", name, value]
    running = Server(words, f"http://127.0.0.1:{port}", folder / "server.log", environment)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def test_a_run(server: Server, tiny_run: Path, twenty: Path, tmp_path: Path) -> None:
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    predictor = Predictor.load(tiny_run, "cpu")
    for image in ("0 normal (1)", "1 malignant (1)", "asymmetric"):
        mask, told = client.infer(RUN, image, {"device": "cpu"})
        expected = predictor.predict(twenty / f"{image}.png")
        assert_same(expected, np.asarray(Image.open(mask)), told["probabilities"], image)
        assert told["predicted_class"] == expected.predicted_class
        assert told["label_names"] == {"lesion": 1}


def test_the_released_weights(
    server: Server, twenty: Path, expected: dict[str, Prediction], tmp_path: Path
) -> None:
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    for path in sorted(twenty.iterdir()):
        mask, told = client.infer(RELEASED, path.stem, {"device": "cpu"})
        pixels = np.asarray(Image.open(mask))
        assert_same(expected[path.stem], pixels, told["probabilities"], path.name)
