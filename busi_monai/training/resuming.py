"""What a resumed run must have in common with its start, and what may change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from busi_monai.bundle.configurations import refuse_differences
from busi_monai.training.schedules import ANY_LENGTH

__all__ = ["CHANGEABLE", "MACHINE_KEYS", "OTHER_MASKS", "refuse_other_settings"]

CHANGEABLE = ("max_epochs", "patience", "device_name", "precision", "num_workers", "cache_dir")
"""Settings that may change when a run is resumed; each session keeps its own.

``max_epochs`` only as long as no epoch is done, or where the schedule does not depend on it.
"""

_PLACES = ("dataset_dir", "extra_dataset_dir", "output_dir", "resume")
"""Where the same data and the same run lie; datasets are compared by hashes."""

MACHINE_KEYS = ("device_name", "num_workers", "cache_dir", *_PLACES)
"""Configuration keys that may differ between the machines that go on with one experiment.

Datasets may lie elsewhere on another machine: a plan holds the hashes of their datalists.
"""


OTHER_MASKS = "Resume it with the masks that it was begun with, or begin a new run"
"""What to do where masks were changed since a run was begun."""


def refuse_other_settings(
    run: Path, before: Mapping[str, Any], now: Mapping[str, Any], *, begun: bool, hint: str = ""
) -> None:
    """Refuse to resume a run with another configuration than its own.

    Args:
        run: its folder, for the message.
        before: the run's own configuration.
        now: the one that it is resumed with.
        begun: whether an epoch is done, so that a schedule is under way.
        hint: further sentence for the message.

    Raises:
        InputError: if a setting differs that may not change; the message names key and values.
    """
    free = {*CHANGEABLE, *_PLACES, "bundle_root", "initial_run"}  # which is compared by its weights
    lengths = ""
    if begun and before.get("lr_schedule") not in ANY_LENGTH:
        free.remove("max_epochs")
        lengths = f"; max_epochs only with lr_schedule {' or '.join(ANY_LENGTH)}"
    kept, given = (
        _plain({key: value for key, value in config.items() if key not in free})
        for config in (before, now)
    )
    remedy = (
        f"{hint}Leave such settings out to resume it with its own, or begin a new run. What may "
        f"change is {', '.join(key for key in CHANGEABLE if key in free)}{lengths}"
    )
    refuse_differences(run, kept, given, remedy)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as its file holds it: tuples as lists, for example."""
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(config), sort_keys=False))
    return plain
