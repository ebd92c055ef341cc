"""What a resumed run has in common with its start, what may change, and its sessions so far."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import refuse_differences
from busi_monai.files import read_json, write_json
from busi_monai.training.schedules import ANY_LENGTH

__all__ = [
    "CHANGEABLE",
    "MACHINE_KEYS",
    "OTHER_MASKS",
    "Sessions",
    "earlier_sessions",
    "refuse_other_settings",
]

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


SESSIONS = "sessions.json"
"""File in a run that is being trained: its sessions, until ``run.json`` tells of them."""


class Sessions:
    """The sessions of a run: the earlier ones and the present one.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.earlier: list[dict[str, Any]] = []
        self._run = run
        self._present: dict[str, Any] = {}
        self._history: bytes | None = None

    def begin(self, folder: Path, present: Mapping[str, Any], *, resumed: bool) -> None:
        """Write ``sessions.json``, so that a killed session is known as well.

        Args:
            folder: where to; the run, or what will become it.
            present: what is known of this session.
            resumed: whether there are earlier ones.
        """
        if resumed:
            self.earlier = earlier_sessions(self._run)
            self._history = self._read_history()
        self._present = dict(present)
        write_json(folder / SESSIONS, {"sessions": [*self.earlier, self._present]})

    @property
    def idle(self) -> bool:
        """Whether the run was resumed, and no epoch was left to train."""
        return bool(self.earlier) and self._history == self._read_history()

    def all(self, **present: Any) -> list[dict[str, Any]]:
        """Return all sessions.

        Args:
            present: what is known of this one at its end.
        """
        return [*self.earlier, {**self._present, **present}]

    def close(self) -> None:
        """Remove ``sessions.json``, once ``run.json`` holds the sessions."""
        (self._run / SESSIONS).unlink(missing_ok=True)

    def _read_history(self) -> bytes | None:
        history = Bundle(self._run).history
        return history.read_bytes() if history.is_file() else None


def earlier_sessions(run: str | Path) -> list[dict[str, Any]]:
    """Return what a run's folder tells of the sessions that trained it, before it is resumed.

    Returns:
        The sessions, each with ``epochs`` (done at its end) and ``seconds``. One that was killed
        before it could tell these has them from ``history.csv``, and ``interrupted`` set; it is
        left out if it finished no epoch.
    """
    run = Path(run)
    found = [run / name for name in (SESSIONS, "run.json") if (run / name).is_file()]
    sessions = list(read_json(found[0]).get("sessions", [])) if found else []
    killed = sessions.pop() if sessions and "epochs" not in sessions[-1] else {}
    done = max((session["epochs"] for session in sessions), default=0)
    if not Bundle(run).history.is_file():
        return sessions
    with Bundle(run).history.open(encoding="utf-8", newline="") as stream:
        beyond = [row for row in csv.DictReader(stream) if int(row["epoch"]) > done]
    if beyond:
        seconds = round(sum(float(row["seconds"] or 0) for row in beyond), 3)
        epochs = int(beyond[-1]["epoch"])
        sessions.append({**killed, "interrupted": True, "epochs": epochs, "seconds": seconds})
    return sessions
