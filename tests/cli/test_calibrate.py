from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from busi_monai import Predictor
from busi_monai.cli.main import main


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "run")


@pytest.fixture
def invoke() -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def validated(
    run: Path, phantom_prepared: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> Path:
    """The run's predictions for the part that its epochs were chosen on."""
    out = tmp_path / "validated"
    words = ("--split", "validation", "--device", "cpu", "--resamples", "5", "--no-overlays")
    result = invoke("evaluate", run, phantom_prepared, "--out", out, *words)
    assert result.exit_code == 0, result.output
    return out


def test_predictions_follow_what_was_fitted(
    run: Path, validated: Path, phantom_prepared: Path, tmp_path: Path,
    invoke: Callable[..., Result],
) -> None:  # fmt: skip
    image = next((phantom_prepared / "images").iterdir())
    before = Predictor.load(run, "cpu").predict(image)
    result = invoke("calibrate", run, validated)
    assert result.exit_code == 0, result.output
    assert "Temperature" in result.output and "sensitivity_95" in result.output
    assert "not a medical device" in result.output
    written = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    assert written["calibration"]["same_network"] is True
    assert written["calibration"]["split"] == "validation"
    after = Predictor.load(run, "cpu").predict(image)
    assert np.array_equal(after.mask, before.mask)
    logits = np.log(list(before.probabilities.values())) / written["temperature"]
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(after.probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_an_operating_point_decides_at_every_door(
    run: Path, validated: Path, phantom_prepared: Path, tmp_path: Path,
    invoke: Callable[..., Result],
) -> None:  # fmt: skip
    assert invoke("calibrate", run, validated, "-q").exit_code == 0
    content = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    content["operating_points"]["sensitivity_98"]["threshold"] = 0.0  # all are malignant
    (run / "settings.json").write_text(json.dumps(content), encoding="utf-8")
    image = next((phantom_prepared / "images").iterdir())
    at = Predictor.load(run, "cpu", operating_point="sensitivity_98")
    assert at.predict(image).predicted_class == "malignant"
    words = ("--model", run, "--out", tmp_path / "out", "--device", "cpu", "--no-overlays")
    images = phantom_prepared / "images"
    result = invoke("predict", images, *words, "--operating-point", "sensitivity_98")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert set(table["predicted_class"]) == {"malignant"}
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["operating_point"] == "sensitivity_98"
    words = ("--device", "cpu", "--resamples", "5", "--operating-point", "sensitivity_98")
    result = invoke("evaluate", run, phantom_prepared, "--out", tmp_path / "measured", *words)
    assert result.exit_code == 0, result.output
    measured = json.loads((tmp_path / "measured" / "metrics.json").read_text(encoding="utf-8"))
    assert measured["per_class"]["malignant"]["recall"]["value"] == 1
    assert measured["operating_points"]["sensitivity_98"]["missed"] == 0


def test_an_unknown_operating_point_is_refused_with_those_there_are(
    run: Path, phantom_prepared: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    words = ("--model", run, "--out", tmp_path / "out", "--operating-point", "sensitivity_95")
    result = invoke("predict", phantom_prepared / "images", *words)
    assert result.exit_code == 2
    assert "no operating point 'sensitivity_95'; fit some by busi-monai calibrate" in result.output


def test_images_trained_on_are_refused(
    run: Path, phantom_prepared: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    words = ("--split", "train", "--device", "cpu", "--resamples", "5", "--no-overlays")
    invoke("evaluate", run, phantom_prepared, "--out", tmp_path / "seen", *words)
    before = (run / "settings.json").read_bytes()
    result = invoke("calibrate", run, tmp_path / "seen")
    assert result.exit_code == 2 and "that the network was trained on" in result.output
    assert (run / "settings.json").read_bytes() == before


def test_json_is_the_new_content(run: Path, validated: Path, invoke: Callable[..., Result]) -> None:
    result = invoke("calibrate", run, validated, "--json", "--sensitivity", "0.8")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == json.loads((run / "settings.json").read_text())


def test_a_missing_table_and_a_wrong_prevalence_are_wrong_usage(
    run: Path, validated: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    assert invoke("calibrate", run, tmp_path / "nothing").exit_code == 2
    assert invoke("calibrate", run, validated, "--prevalence", "1").exit_code == 2
