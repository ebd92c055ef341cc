"""Twenty images get the predictor's mask and probabilities from MONAI Label, too."""

from __future__ import annotations

import shutil
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

from busi_monai.inference import Prediction
from tests.label_app.server import Server, free_port
from tests.serving.images import assert_same

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(twenty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the shipped bundle with its released weights."""
    folder = tmp_path_factory.mktemp("released")
    studies = shutil.copytree(twenty, folder / "studies")  # the server writes into it
    port = free_port()
    words = [sys.executable, "-c", "from busi_monai.cli.main import main; main()", "label-app"]
    words += ["--out", str(folder / "app"), "--studies", str(studies)]
    words += ["--device", "cpu", "--port", str(port)]
    running = Server(words, f"http://127.0.0.1:{port}", folder / "server.log")
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def test_label_app(
    server: Server, twenty: Path, expected: dict[str, Prediction], tmp_path: Path
) -> None:
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    for path in sorted(twenty.iterdir()):
        mask, told = client.infer("breast_ultrasound", path.stem, {})
        pixels = np.asarray(Image.open(mask))
        assert_same(expected[path.stem], pixels, told["probabilities"], path.name)
