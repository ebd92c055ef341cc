from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigWorkflow

from busi_monai.bundle.workflow import bundle_root_of_config, running_configuration

CONFIG = """
imports:
- $import busi_monai
- $import busi_monai.bundle.workflow
width: 4
double: $@width * 2
save_execute_config: out.json
tracking_uri: file
train:
  handlers:
  - _target_: StatsHandler
  - _target_: MLFlowHandler
run:
- $busi_monai.bundle.workflow.bundle_root_of_config()
- $busi_monai.bundle.workflow.running_configuration()
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    folder = tmp_path / "bundle" / "configs"
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "metadata.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path.parent)
    workflow = ConfigWorkflow(str(folder / "train.yaml"), logging_file=False, width=3)
    workflow.initialize()
    return workflow.run()


def test_the_root_is_the_bundle_of_the_configuration(found: list, tmp_path: Path) -> None:
    assert found[0] == str(tmp_path / "bundle")


def test_the_configuration_is_what_was_asked_for(found: list) -> None:
    config = found[1]
    assert config["width"] == 3 and config["double"] == "$@width * 2"
    assert "_meta_" not in config
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_what_tracking_added_is_taken_off(found: list) -> None:
    config = found[1]
    assert config["train"]["handlers"] == [{"_target_": "StatsHandler"}]
    assert config["save_execute_config"] is False and "tracking_uri" not in config


def test_without_a_workflow() -> None:
    assert bundle_root_of_config() == "."
    assert running_configuration() == {}
