"""MONAI Label's stock ``monaibundle`` app with a run of ours, for proposals alone."""

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

from busi_monai.inference import Predictor
from tests.serving.label_app.server import Server, free_port

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tiny_run")]

MODEL = "tiny_segmentation"  # the stock app guesses the task from the folder's name
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
    shutil.copytree(tiny_run, app / "model" / MODEL, ignore=shutil.ignore_patterns("last.pt"))
    return app


@pytest.fixture(scope="module")
def folder(phantom_busi: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = tmp_path_factory.mktemp("studies") / "pictures"
    studies.mkdir()
    for name in ("normal", "benign", "malignant"):
        shutil.copy(phantom_busi / name / f"{name} (1).png", studies)
    return studies


@pytest.fixture(scope="module")
def server(
    stock_app: Path,
    folder: Path,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    port = free_port()
    words = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    words += ["--app", str(stock_app), "--studies", str(folder), "--port", str(port)]
    for name, value in (
        ("models", MODEL), ("zoo_source", "local"), ("sam2", "false"), ("skip_trainers", "true"),
    ):  # fmt: skip
        words += ["--conf", name, value]
    log = tmp_path_factory.mktemp("log") / "stock.log"
    running = Server(words, f"http://127.0.0.1:{port}", log, environment)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("image", ["normal (1)", "benign (1)", "malignant (1)"])
def test_proposals_are_the_predictors(
    server: Server, tiny_run: Path, folder: Path, tmp_path: Path, image: str
) -> None:
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    mask, told = client.infer(MODEL, image, {"device": "cpu"})
    expected = Predictor.load(tiny_run, "cpu").predict(folder / f"{image}.png")
    assert np.array_equal(np.array(Image.open(mask)), expected.mask)
    assert told["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert told["predicted_class"] == expected.predicted_class
    assert told["label_names"] == {"lesion": 1}
