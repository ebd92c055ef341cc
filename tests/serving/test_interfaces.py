"""Twenty images get the same mask and probabilities at every door, by the released weights."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from monai.bundle import ConfigWorkflow
from PIL import Image
from starlette.testclient import TestClient

from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.cli.main import main
from busi_monai.evaluation import read_predictions
from busi_monai.inference import EngineChoice, Prediction, Predictor, export_bundle
from busi_monai.io.images import read_mask
from busi_monai.serving.answers import ImageResult
from busi_monai.serving.application import application
from busi_monai.serving.limits import Limits
from busi_monai.serving.page.results import ShownUpload
from busi_monai.serving.service import PredictionService
from busi_monai.serving.uploads import Upload

from .images import CLASSES, assert_same

pytestmark = pytest.mark.slow


def assert_same_table(table: pd.DataFrame, out: Path, expected: dict[str, Prediction]) -> None:
    assert set(table["id"]) == set(expected)
    for row in table.to_dict("records"):
        probabilities = {name: row[f"p_{name}"] for name in CLASSES}
        mask = read_mask(out / "masks" / f"{row['id']}.png")
        assert_same(expected[row["id"]], mask, probabilities, row["id"])


def test_command(twenty: Path, expected: dict[str, Prediction], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["predict", str(twenty), "--out", str(out), "--device", "cpu", "--quiet"]

    result = CliRunner().invoke(main, words)

    assert result.exit_code == 0, result.output
    assert_same_table(read_predictions(out), out, expected)


def test_bundle(twenty: Path, expected: dict[str, Prediction], tmp_path: Path) -> None:
    bundle = find_bundle()
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        device_name="cpu",
        dataset_dir=str(twenty),
        output_dir=str(tmp_path / "out"),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()

    assert_same_table(read_predictions(tmp_path / "out"), tmp_path / "out", expected)


def test_rest(twenty: Path, expected: dict[str, Prediction], released: Predictor) -> None:
    app = application(PredictionService(released, Limits(per_minute=0)))
    files = [("file", (path.name, path.read_bytes())) for path in sorted(twenty.iterdir())]

    with TestClient(app, base_url="http://localhost") as client:
        answers = [
            client.post("/v1/predict?mask=1", files=[file]).raise_for_status().json()
            for file in files
        ]

    entries = [entry for answer in answers for entry in answer]
    assert [entry["id"] for entry in entries] == [path.stem for path in sorted(twenty.iterdir())]
    for entry in entries:
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["mask"]))))
        assert_same(expected[entry["id"]], mask, entry["probabilities"], entry["id"])


def test_what_the_page_lets_one_download(
    twenty: Path, expected: dict[str, Prediction], released: Predictor
) -> None:
    service = PredictionService(released)
    for path in sorted(twenty.iterdir()):
        upload = Upload(path.stem, path.name, path.read_bytes())
        result = ImageResult(path.stem, path.name, prediction=released.predict(path))
        shown = ShownUpload.of(upload, [result], service)
        table = pd.read_csv(io.BytesIO(shown.csv()))
        probabilities = {name: float(table[f"p_{name}"][0]) for name in CLASSES}
        mask = np.asarray(Image.open(io.BytesIO(shown.frames[0].mask_png)))
        assert_same(expected[path.stem], mask, probabilities, path.stem)


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_engines(twenty: Path, expected: dict[str, Prediction], engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    predictor = Predictor.load(device="cpu", engine=engine)
    assert predictor.engine == EngineChoice(engine, "asked for")
    for image, found in predictor.predict_many(sorted(twenty.iterdir())):
        wanted = expected[image.stem]
        assert np.mean(found.mask != wanted.mask) <= 0.001, image
        assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-4), image


@pytest.mark.parametrize(("format", "suffix"), [("torchscript", ".ts"), ("pt2", ".pt2")])
def test_exports(twenty: Path, format: str, suffix: str, tmp_path: Path) -> None:
    images = sorted(twenty.iterdir())
    report = export_bundle(DEFAULT_BUNDLE, tmp_path / f"model{suffix}", format, check=images)
    assert report.images == len(images)
    assert report.max_difference < 1e-4 and report.mask_difference <= 0.001
