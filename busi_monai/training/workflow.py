"""What a bundle's configuration cannot know by itself: the workflow that is evaluating it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from busi_monai.bundle.configurations import read_configuration
from busi_monai.bundle.workflow import (
    bundle_root_of_config,
    laid_configuration,
    running_workflow,
)

_TRACKING = ("tracking_uri", "experiment_name", "run_name", "is_not_rank0")

__all__ = [
    "bundle_root_of_config",
    "laid_configuration",
    "resolved_section",
    "running_workflow",
    "unknown_keys",
    "workflow_config",
]


def workflow_config() -> dict[str, Any]:
    """Return the running configuration: files merged, overrides applied, references unresolved.

    Without what MONAI's experiment tracking has added, so that it can be added again.

    Raises:
        RuntimeError: if no workflow is running.
    """
    workflow = running_workflow()
    if workflow is None:
        raise RuntimeError("no ConfigWorkflow is running; run the configuration as a bundle")
    config: dict[str, Any] = deepcopy(workflow.parser.get())
    for name in ("_meta_", *_TRACKING):
        config.pop(name, None)
    config["save_execute_config"] = False  # which MONAI's tracking has turned into its own value
    for section in ("train", "validate"):
        if "handlers" in config.get(section, {}):
            config[section]["handlers"] = [
                handler
                for handler in config[section]["handlers"]
                if handler["_target_"] != "MLFlowHandler"
            ]
    return config


def unknown_keys(files: Sequence[Path]) -> list[str]:
    """Return the running configuration's top-level keys that no file has and nothing refers to.

    MONAI adds a misspelt override as a new key, which then does nothing. Outside a workflow, or
    without files, there is nothing to compare: no key is unknown.

    Args:
        files: the configurations whose keys are known.
    """
    if running_workflow() is None or not files:
        return []
    known = {"imports"}
    for path in files:
        known |= {key.partition("#")[0] for key in read_configuration(path)}
    config = workflow_config()
    text = yaml.safe_dump(config)
    return [
        key
        for key in config
        if key not in known and not re.search(rf"[@%]{re.escape(key)}(?!\w)", text)
    ]


def resolved_section(config: Mapping[str, Any], name: str) -> Any:
    """Return a section of a configuration with its references replaced by plain values.

    A parser of its own: the workflow's would keep the uninstantiated section as the resolved one.
    """
    parser = ConfigParser(deepcopy(dict(config)))
    return parser.get_parsed_content(name, instantiate=False).get_config()
