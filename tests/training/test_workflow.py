from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigWorkflow

from busi_monai.training.workflow import (
    bundle_root_of_config,
    resolved_section,
    running_workflow,
    unknown_keys,
    workflow_config,
)

CONFIG = """
imports:
- $import busi_monai
- $import busi_monai.training.workflow
width: 4
network_def:
  _target_: torch.nn.Linear
  in_features: $@width * 2
  out_features: "@width"
save_execute_config: out.json
tracking_uri: file
train:
  handlers:
  - _target_: StatsHandler
  - _target_: MLFlowHandler
root: $busi_monai.training.workflow.bundle_root_of_config()
config: $busi_monai.training.workflow.workflow_config()
run:
- $@root
- $@config
"""


@pytest.fixture
def workflow(tmp_path: Path) -> ConfigWorkflow:
    folder = tmp_path / "bundle" / "configs"
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "metadata.json").write_text("{}", encoding="utf-8")
    made = ConfigWorkflow(str(folder / "train.yaml"), logging_file=False, width=3)
    made.initialize()
    return made


def test_the_root_is_the_bundle_of_the_configuration(
    workflow: ConfigWorkflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    assert workflow.run()[0] == str(tmp_path / "bundle")


def test_the_configuration_is_what_was_asked_for(workflow: ConfigWorkflow) -> None:
    config = workflow.run()[1]
    assert config["width"] == 3
    assert config["network_def"]["in_features"] == "$@width * 2"
    assert "_meta_" not in config
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_what_tracking_added_is_taken_off(workflow: ConfigWorkflow) -> None:
    config = workflow.run()[1]
    assert config["train"]["handlers"] == [{"_target_": "StatsHandler"}]
    assert config["save_execute_config"] is False and "tracking_uri" not in config


def test_a_section_is_resolved_to_plain_values(workflow: ConfigWorkflow) -> None:
    config = workflow.run()[1]
    assert resolved_section(config, "network_def") == {
        "_target_": "torch.nn.Linear",
        "in_features": 6,
        "out_features": 3,
    }


def test_a_key_that_nothing_refers_to_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from busi_monai.training import workflow as module

    config = {"width": 1, "use": "$@helper + 1", "helper": 2, "help": 3, "backend": "gloo"}
    monkeypatch.setattr(module, "running_workflow", object)
    monkeypatch.setattr(module, "workflow_config", lambda: config)
    (tmp_path / "a.yaml").write_text("width: 3\nuse: 4\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("backend#name: 3\n", encoding="utf-8")
    assert unknown_keys([tmp_path / "a.yaml", tmp_path / "b.yaml"]) == ["help"]
    assert unknown_keys([]) == []


def test_without_a_workflow() -> None:
    assert running_workflow() is None
    assert bundle_root_of_config() == "."
    with pytest.raises(RuntimeError, match="no ConfigWorkflow is running"):
        workflow_config()
