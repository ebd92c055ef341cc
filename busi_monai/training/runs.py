"""Run a bundle's configurations from Python, as the commands do: one training, one evaluation."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import (
    RENAMED_KEYS,
    check_imports,
    read_configuration,
    write_configuration,
)
from busi_monai.bundle.shipped import find_config
from busi_monai.curation import load_datalist
from busi_monai.devices import choose_device, launched_by_torchrun
from busi_monai.errors import BusiMonaiError, InputError
from busi_monai.outputs import check_output

__all__ = [
    "Observer",
    "check_keys",
    "parse_overrides",
    "run_evaluation",
    "train_run",
    "with_full_paths",
]

logger = logging.getLogger(__name__)

Observer = Callable[[int, dict[str, float]], bool | None]

_PATHS = ("extra_dataset_dir", "initial_run")
"""Keys whose folders a run keeps in full, so that it can be resumed from anywhere."""


def parse_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Return ``key=value`` settings as a mapping, values read as YAML.

    Raises:
        InputError: if a setting has no ``=``, no key, or a value that is not YAML.

    Examples:
        >>> parse_overrides(["learning_rate=1e-3", "image_size=[96, 96]", "train#trainer#amp=true"])
        {'learning_rate': 0.001, 'image_size': [96, 96], 'train#trainer#amp': True}
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key.strip():
            raise InputError(f"--set {setting!r}: expected key=value")
        try:
            parsed = _number_or(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise InputError(f"--set {setting!r}: the value is not YAML: {error}") from error
        key = key.strip().replace("::", "#")
        if key in RENAMED_KEYS:
            logger.warning("%s is now %s", key, RENAMED_KEYS[key])
        overrides[RENAMED_KEYS.get(key, key)] = parsed
    return overrides


def check_keys(files: Sequence[Path], overrides: Mapping[str, Any], *, own: int = 1) -> None:
    """Refuse a key that a configuration does not have: it would silently do nothing.

    Args:
        files: the configuration and the overlays that are laid over it, as YAML files.
        overrides: values by configuration key.
        own: how many of the files make up the configuration itself.

    Raises:
        InputError: if a file is no YAML mapping, or it or ``overrides`` has an unknown key.
    """
    layers = [read_configuration(path) for path in files]
    top, overlays = {key for layer in layers[:own] for key in layer}, layers[own:]
    base = ConfigParser(ConfigParser.load_config_files([str(path) for path in files]))
    laid = [key for overlay in overlays for key in overlay]
    for key in (name.replace("::", "#") for name in [*laid, *overrides]):
        section = key.split("#")[0].lstrip("+")
        if section not in top:
            raise InputError(
                f"unknown configuration key {key!r}; the tunables are the top-level keys of "
                f"{files[0]}"
            )
        if "#" in key and key not in base and key.rpartition("#")[0] not in base:
            raise InputError(f"unknown configuration key {key!r} in {files[0]}")
        section = key.rpartition("#")[0]
        if section and not isinstance(base[section], (dict, list)):
            raise InputError(
                f"{key!r}: {section} is {base[section]!r} in {files[0]}, which has no parts; "
                f"set it as a whole: {section}={{{key.rpartition('#')[2]}: …}}"
            )


def train_run(
    prepared: Sequence[str | Path],
    out: str | Path,
    files: Sequence[str | Path],
    *,
    overrides: Mapping[str, Any],
    resume: bool = False,
    tracking: str | None = None,
    observe: Observer | None = None,
) -> None:
    """Train one network into a run's folder; ``busi_monai.training.train_bundle`` says the rest.

    In a process of ``torchrun``, it is trained in all of them.

    Args:
        prepared: one or several prepared datasets.
        out: the run's folder.
        files: the ``train.yaml``, and overlays that are laid over it.
        overrides: values by configuration key.
        resume: continue the run in ``out``, if there is one.
        tracking: ``mlflow``, or a file of tracking settings.
        observe: called after every validation.
    """
    base, *overlays = files
    own = [Path(base)]
    if launched_by_torchrun():
        own.append(_for_several_processes(own[0]))
    configs = [*own, *(find_config(name) for name in overlays)]
    check_keys(configs, overrides, own=len(own))
    choose_device(str(overrides.get("device_name", "auto")))
    values = _with_own(
        overrides,
        dataset_dir=[str(Path(folder).absolute()) for folder in prepared],
        output_dir=str(Path(out).absolute()),
        resume=resume,
    )
    _run(_workflow(configs, values, workflow_type="train", tracking=tracking), observe)


def _for_several_processes(base: Path) -> Path:
    path = base.with_name("multi_gpu_train.yaml")
    if not path.is_file():
        raise InputError(
            f"{path} is not there, by which several processes train {base}; train it in one, "
            "without torchrun"
        )
    return path


def with_full_paths(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides whose folders a run keeps in full, to be resumed from anywhere."""
    return {key: _absolute(key, value) for key, value in overrides.items()}


def run_evaluation(
    run: str | Path,
    prepared: Sequence[str | Path],
    out: str | Path,
    *,
    split: str = "reported",
    fold: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Run a bundle's ``evaluate.yaml`` and return the folder of predictions and ``metrics.json``.

    Args:
        run: a run's or bundle's folder, or a shipped bundle's name.
        prepared: one or several prepared datasets.
        out: the folder to make.
        split: ``train``, ``validation``, ``test`` or ``reported``.
        fold: the reported fold; by default the one that the run was trained for, where the
            datasets have folds.
        overrides: values by configuration key; ``None`` values are left out.

    Raises:
        InputError: if a dataset, run, split or device is not there, or ``out`` is not empty.
        WeightsError: if the weights are missing or do not fit.
    """
    bundle = Bundle.open(run)
    files = bundle.config_files("evaluate")
    values = {key: value for key, value in (overrides or {}).items() if value is not None}
    if fold is not None:
        values["fold"] = fold
    elif "fold" not in values and not any(load_datalist(folder).folds for folder in prepared):
        values["fold"] = None  # other datasets than the run's, which has a fold of its own
    check_keys(files, values, own=len(files))
    choose_device(str(values.get("device_name", "auto")))
    reads = [bundle.folder, *prepared]
    check_output(out, "evaluate", reads=reads, overwrite=bool(values.get("overwrite")))
    values = _with_own(
        values,
        dataset_dir=[str(Path(folder).absolute()) for folder in prepared],
        output_dir=str(Path(out).absolute()),
        split=split,
    )
    workflow = _workflow(files, values, workflow_type="infer")
    _run(workflow)
    return Path(out).absolute()


def _absolute(key: str, value: Any) -> Any:
    if key.replace("::", "#").rpartition("#")[2] not in _PATHS or not value:
        return value
    if isinstance(value, (list, tuple)):
        return [_absolute(key, each) for each in value]
    return str(Path(value).absolute()) if Path(value).is_dir() else str(value)


def _with_own(values: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """Return the overrides with what the call itself says, which no override may say otherwise."""
    named = sorted(own.keys() & values.keys())
    if named:
        raise InputError(
            f"{', '.join(named)} cannot be set: the command's own arguments and options say it"
        )
    return {**values, **own}


def _workflow(
    files: Sequence[Path],
    overrides: Mapping[str, Any],
    *,
    workflow_type: str,
    tracking: str | None = None,
) -> ConfigWorkflow:
    check_imports(files)
    configs = files[0].parent
    with tempfile.TemporaryDirectory() as folder:
        current = [_with_current_names(path, Path(folder)) for path in files]
        own = {} if current[0] == files[0] else {"bundle_root": str(configs.parent.absolute())}
        return ConfigWorkflow(
            config_file=[str(path) for path in current],
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            workflow_type=workflow_type,
            tracking=None if tracking is None else _tracking_settings(tracking, configs),
            **{**own, **overrides},
        )


def _with_current_names(path: Path, folder: Path) -> Path:
    """Return a configuration's path, or that of a copy where version 0.1.0 wrote it."""
    current = read_configuration(path)
    if current == yaml.safe_load(path.read_text(encoding="utf-8")):
        return path
    copy = folder / f"{len(list(folder.iterdir()))}.yaml"
    write_configuration(copy, current)
    return copy


def _tracking_settings(tracking: str, configs: Path) -> str:
    """Return the file of tracking settings, the bundle's own for ``mlflow``."""
    if tracking != "mlflow":
        return str(find_config(tracking))
    if any(importlib.util.find_spec(name) is None for name in ("mlflow", "sqlalchemy", "alembic")):
        raise InputError(
            "--tracking mlflow needs packages that are not installed: pip install "
            "'busi-monai[tracking]'"
        )
    return str(configs / "mlflow.yaml")


def _run(workflow: ConfigWorkflow, observe: Observer | None = None) -> None:
    """Run a workflow; an error comes out as itself, not as MONAI's "failed to evaluate".

    What does not work while the objects are made is an error of the configuration.
    """
    try:
        workflow.initialize()
    except (RuntimeError, ImportError) as error:
        cause = _cause(error)
        if isinstance(cause, (BusiMonaiError, OSError)):
            raise cause from error
        if isinstance(cause, (ValueError, TypeError, ArithmeticError, LookupError, ImportError)):
            raise InputError(f"the configuration does not work: {cause}") from error
        raise
    if observe is not None:
        _attach(observe, workflow)
    try:
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        cause = _cause(error)
        if isinstance(cause, (BusiMonaiError, OSError)):
            raise cause from error
        raise


def _attach(observe: Observer, workflow: ConfigWorkflow) -> None:
    trainer = workflow.parser.get_parsed_content("train#trainer")
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")

    def after_validation(engine: Engine) -> None:
        if observe(engine.state.epoch, dict(engine.state.metrics)):
            trainer.terminate()

    evaluator.add_event_handler(Events.COMPLETED, after_validation)


def _cause(error: BaseException) -> BaseException:
    """Return the first error of ours in a chain of causes, or the error that began it."""
    while not isinstance(error, BusiMonaiError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _number_or(value: Any) -> Any:
    # YAML 1.1 reads 1e-3 as text
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
