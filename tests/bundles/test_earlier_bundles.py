"""Bundles that version 0.1.0 wrote: they open, predict and are evaluated as before.

``version_0_1_0`` holds the configurations of the first release; the network and its weights are
those of the tiny bundle.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from busi_monai import Predictor
from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import RENAMED_KEYS, current_names, current_training
from busi_monai.files import read_json, write_json
from busi_monai.settings import load_settings
from busi_monai.training import run_evaluation, train_bundle

FILES = Path(__file__).parent / "version_0_1_0"


@pytest.fixture(scope="module")
def earlier(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as version 0.1.0 would have written it."""
    bundle = tmp_path_factory.mktemp("earlier") / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    network = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text("utf-8"))
    for name in ("inference.yaml", "evaluate.yaml"):
        config = yaml.safe_load((FILES / name).read_text("utf-8"))
        config["network_def"] = network["network_def"]
        (bundle / "configs" / name).write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    (bundle / "settings.json").unlink()
    settings = read_json(FILES / "operating.json")
    write_json(bundle / "operating.json", {**settings, "image_size": [32, 48]})
    return bundle


def test_its_settings_are_read(earlier: Path) -> None:
    settings = load_settings(earlier)
    assert settings.temperature == 1.6182
    assert settings.operating_points["sensitivity_95"].threshold == 0.14431


def test_it_predicts_as_the_same_bundle_of_today(
    earlier: Path, tiny_bundle: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    today = tmp_path / "today"
    shutil.copytree(tiny_bundle, today)
    load_settings(earlier).save(today)
    image = next((phantom_prepared / "images").glob("malignant*.png"))
    was, now = (
        Predictor.load(bundle, "cpu", operating_point="sensitivity_95").predict(image)
        for bundle in (earlier, today)
    )
    assert np.array_equal(was.mask, now.mask)
    assert was.probabilities == now.probabilities
    assert was.predicted_class == now.predicted_class


def test_it_is_evaluated(earlier: Path, phantom_prepared: Path, tmp_path: Path) -> None:
    run_evaluation(earlier, [phantom_prepared], tmp_path / "out", split="test")
    assert read_json(tmp_path / "out" / "metrics.json")["images"] > 0


def test_a_run_goes_on(tiny_config: Path, phantom_prepared: Path, tmp_path: Path) -> None:
    run, settings = Bundle(tmp_path / "run"), {"max_epochs": 1, "lr_schedule": "constant"}
    train_bundle([phantom_prepared], run.folder, configs=[tiny_config], overrides=settings)
    # a run keeps its configuration as MONAI has read it: a::b for a#b
    text = re.sub(r"(?<=\w)#(?=\w)", "::", (FILES / "train.yaml").read_text("utf-8"))
    earlier, today = yaml.safe_load(text), run.config("train")
    earlier["training"] = earlier["run"]  # for %run
    tunables = set(yaml.safe_load(text.split("\noperating:\n")[0])) - {"imports", "bundle_root"}
    earlier |= {key: today[RENAMED_KEYS.get(key, key)] for key in tunables}
    run.config_file("train").write_text(yaml.safe_dump(earlier, sort_keys=False), "utf-8")
    train_bundle([phantom_prepared], run.folder, overrides={"max_epochs": 2}, resume=True)
    assert run.record is not None and run.record["epochs"] == 2


def test_a_run_takes_its_values_and_todays_recipe() -> None:
    earlier = yaml.safe_load((FILES / "train.yaml").read_text("utf-8"))
    earlier |= {"max_epochs": 7, "operating": {**earlier["operating"], "clahe": True}}
    read = current_training(yaml.safe_load(current_names(yaml.safe_dump(earlier))))
    assert read["max_epochs"] == 7
    assert read["settings"]["clahe"] == "@clahe"
