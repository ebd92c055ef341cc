"""The workflow that is evaluating a bundle's configuration, and configurations laid over others."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import merge_kv

__all__ = ["bundle_root_of_config", "laid_configuration", "running_configuration"]

_TRACKING = ("tracking_uri", "experiment_name", "run_name", "is_not_rank0")


def _running_workflow() -> ConfigWorkflow | None:
    """Return the ``ConfigWorkflow`` that is evaluating the calling expression, or ``None``.

    MONAI hands its expressions neither parser nor files, and its commands make a plain
    ``ConfigWorkflow``: so the calling frames are searched for it, here and nowhere else.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigWorkflow):
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None


def bundle_root_of_config() -> str:
    """Return the bundle that the running configuration lies in, from wherever it is called.

    Outside a workflow (a bare ``ConfigParser``), the current folder, MONAI's convention.
    """
    workflow = _running_workflow()
    if workflow is None:
        return "."
    folder = Path(workflow.config_root_path).absolute()
    return str(folder.parent if folder.name == "configs" else folder)


def running_configuration() -> dict[str, Any]:
    """Return the running configuration: files merged, overrides applied, references unresolved.

    Without what MONAI's experiment tracking has added, so that it can be added again. Outside a
    workflow, an empty one.
    """
    workflow = _running_workflow()
    if workflow is None:
        return {}
    config: dict[str, Any] = deepcopy(workflow.parser.get())
    for name in ("_meta_", *_TRACKING):
        config.pop(name, None)
    config["save_execute_config"] = False  # which MONAI's tracking has turned into its own value
    for section in ("train", "validate"):
        handlers = config.get(section, {}).get("handlers", [])
        handlers[:] = [each for each in handlers if "MLFlowHandler" not in str(each)]
    return config


def laid_configuration(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return configurations laid over each other as MONAI lays files, references unresolved.

    A key ``a#b`` whose section ``a`` is not there stays as it is: training refuses it.

    Args:
        layers: a bundle's configuration first, then overlays and overrides.

    Examples:
        >>> laid_configuration([{"a": {"b": 1}, "c": [1]}, {"a#b": 2, "+c": [3], "d#e": 4}])
        {'a': {'b': 2}, 'c': [1, 3], 'd#e': 4}
    """
    parser = ConfigParser({})
    unknown: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            section = key.replace("::", "#").rpartition("#")[0].lstrip("+")
            if not section or section in parser:
                merge_kv(parser, key, deepcopy(value))
            else:
                unknown[key] = value
    return {**parser.get(), **unknown}
