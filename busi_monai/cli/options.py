"""Options that several commands share, so that each is called and explained the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import busi_monai
from busi_monai.bundle.shipped import DEFAULT_BUNDLE

__all__ = [
    "LayoutChoice",
    "consistency_option",
    "device_option",
    "flip_option",
    "operating_point_option",
    "overwrite_option",
    "quiet_option",
    "resamples_option",
    "training_device_option",
    "training_options",
    "training_overrides",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class LayoutChoice(click.ParamType):
    """A choice of the layouts that can be read; dashes and capitals pass, too."""

    name = "layout"

    def __init__(self, *further: str) -> None:
        self.further = further

    def _choice(self) -> click.Choice[str]:
        return click.Choice([*self.further, *busi_monai.list_datasets()])

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Return the names for the help."""
        return self._choice().get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as the registry has it."""
        return self._choice().convert(str(value).replace("-", "_").lower(), param, ctx)


device_option: Decorator = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
training_device_option: Decorator = click.option(
    "--device", help="auto, cpu, cuda or cuda:N; by default as the configuration says."
)
flip_option: Decorator = click.option(
    "--tta-flip/--no-tta-flip",
    default=None,
    help="Predict the mirror image too and average; by default as the bundle says.",
)
consistency_option: Decorator = click.option(
    "--consistency/--no-consistency",
    default=None,
    help="Make mask and class agree; by default as the bundle says.",
)
model_option: Decorator = click.option(
    "--model",
    metavar="MODEL",
    help="Folder of a run or bundle, or a shipped bundle by name; by default the released weights.",
)
operating_point_option: Decorator = click.option(
    "--operating-point",
    metavar="NAME",
    help="Decide malignancy at a threshold of settings.json, such as sensitivity_95.",
)
resamples_option: Decorator = click.option(
    "--resamples",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Bootstrap resamples of the groups.",
)
overwrite_option: Decorator = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace what this command made there before, and nothing else.",
)


def quiet_option(help: str = "No progress bar and no summary.") -> Decorator:
    """Return ``-q/--quiet`` with what it leaves out."""
    return click.option("-q", "--quiet", is_flag=True, help=help)


_TRAINING: tuple[Decorator, ...] = (
    click.option(
        "--config",
        "configs",
        multiple=True,
        metavar="NAME_OR_FILE",
        help="Shipped overlay (smoke, cpu, gpu, …) or YAML file; several are laid on in turn.",
    ),
    click.option(
        "--model", help=f"Bundle to train; by default {DEFAULT_BUNDLE}, or what is resumed."
    ),
    click.option(
        "--extra",
        multiple=True,
        metavar="PREPARED",
        type=click.Path(path_type=Path),
        help="A further dataset whose split train is trained on too; may be given again.",
    ),
    click.option("--epochs", type=click.IntRange(min=1), help="Length of the training."),
    click.option("--batch-size", type=click.IntRange(min=1), help="Images for one step."),
    click.option(
        "--image-size", type=click.IntRange(min=16), help="Side of the network's input, px."
    ),
    click.option(
        "--patience", type=click.IntRange(min=1), help="Validations without a better score."
    ),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of every random draw."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any key of the configuration; nested keys as a#b. Values are YAML.",
    ),
    training_device_option,
)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that trains takes: ``configs``, ``bundle`` and the overrides."""
    for option in reversed(_TRAINING):
        command = option(command)
    return command


def training_overrides(*, settings: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Return values by configuration key of what ``training_options`` took, and of ``--fold``."""
    from busi_monai.api import models
    from busi_monai.training import parse_overrides

    return models.training_overrides(**options, settings=parse_overrides(settings))
