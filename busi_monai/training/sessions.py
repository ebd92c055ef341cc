"""The sessions that train a run: when each was started, with which command and settings."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from busi_monai.bundle import Bundle
from busi_monai.files import read_json, write_json

__all__ = ["SESSIONS", "Sessions", "earlier_sessions"]

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
