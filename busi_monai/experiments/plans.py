"""What an experiment was started with, so that going on with something else is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import read_configuration, refuse_differences
from busi_monai.bundle.shipped import find_config
from busi_monai.bundle.workflow import laid_configuration
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.training import STAGES
from busi_monai.training.resuming import MACHINE_KEYS
from busi_monai.training.stages import stage_layers

__all__ = [
    "check_folder",
    "effective_configuration",
    "keep_plan",
    "section_of",
    "training_settings",
]


def section_of(key: str) -> str:
    """Return the top-level key that a configuration key lies in.

    Examples:
        >>> section_of("encoder_options::widths"), section_of("+optimizer#lr"), section_of("seed")
        ('encoder_options', 'optimizer', 'seed')
    """
    return key.replace("::", "#").split("#")[0].lstrip("+")


def effective_configuration(
    bundle: str | Path, configs: Sequence[str | Path], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a bundle's training configuration with overlays and overrides laid on.

    References stay as they are; ``MACHINE_KEYS`` are left out. Of a bundle that is trained in
    stages, the stages' own configurations, the overlays and the overrides stand side by side.

    Raises:
        InputError: if the bundle or an overlay is not there, or is no YAML mapping.
    """
    folder = Bundle.open(bundle).configs
    values = {key.replace("::", "#"): value for key, value in overrides.items()}
    overlays = [find_config(name) for name in configs]
    if not (folder / "train.yaml").is_file():
        return {
            **{path.stem: read_configuration(path) for path in sorted(folder.glob("train_*.yaml"))},
            "overlays": [read_configuration(path) for path in overlays],
            "overrides": {key: v for key, v in values.items() if key not in MACHINE_KEYS},
        }
    content = laid_configuration(_layers(folder / "train.yaml", overlays, values))
    return {key: value for key, value in content.items() if key not in MACHINE_KEYS}


def training_settings(
    bundle: str | Path, configs: Sequence[str | Path], overrides: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the configuration of each training that a bundle's training consists of.

    One, or of a bundle that is trained in stages one for each, as far as its top-level keys go.

    Raises:
        InputError: if the bundle or an overlay is not there, is no YAML mapping, or would turn a
            stage into another one.
    """
    folder = Bundle.open(bundle).configs
    values = {key.replace("::", "#"): value for key, value in overrides.items()}
    overlays = [find_config(name) for name in configs]
    if (folder / "train.yaml").is_file():
        return [laid_configuration(_layers(folder / "train.yaml", overlays, values))]
    base = Bundle.open().config("train")
    told = stage_layers([read_configuration(path) for path in overlays], values)
    return [
        {
            **base,
            **read_configuration(path),
            **{k: v for layer in told[stage] for k, v in layer.items()},
        }
        for stage in STAGES
        if (path := folder / f"train_{stage}.yaml").is_file()
    ]


def _layers(
    train: Path, overlays: Sequence[Path], values: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    return [*map(read_configuration, (train, *overlays)), values]


def keep_plan(path: Path, plan: Mapping[str, Any], *, begun: bool) -> None:
    """Write an experiment's plan, or check that the one that is there is the same.

    Args:
        path: the plan's file, in the experiment's folder.
        plan: plain JSON values.
        begun: whether anything was trained by the plan that is there; else it is replaced.

    Raises:
        InputError: if the folder holds something else than the experiment, or its plan differs; the
            message names what differs.
    """
    if path.is_file() and begun:
        remedy = "Go on with the same settings and datasets, or choose another folder"
        before = read_json(path)
        refuse_differences(path.parent, before, _as_far_as_told(plan, before), remedy)
        return
    check_folder(path)
    write_json(path, plan)


def _as_far_as_told(plan: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan with masks as before where one side, of an earlier version, tells no hash."""
    now = dict(plan)
    masks, known = now.pop("labels_sha256", []), before.get("labels_sha256")
    if known is not None:
        pairs = zip(masks, known, strict=False)
        told = [here if here and there else there for here, there in pairs]
        now["labels_sha256"] = told if len(masks) == len(known) else masks
    return now


def check_folder(path: Path) -> None:
    """Check that a plan's folder is not there, is empty but for hidden files, or holds the plan.

    Raises:
        InputError: if it holds something else.
    """
    folder = path.parent
    if path.is_file() or not folder.exists():
        return
    if not folder.is_dir() or any(not found.name.startswith(".") for found in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no {path.name}; choose another folder")
