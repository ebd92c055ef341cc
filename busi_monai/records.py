"""``run.json``: what was run, with which versions, on what, for how long, with which failures."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from busi_monai.cases import PredictionWarning
from busi_monai.files import named, write_json

__all__ = ["RunRecord", "installed_versions", "source_commit", "split_of"]

RECORDED_PACKAGES = (
    "busi-monai",
    "monai",
    "torch",
    "numpy",
    "pytorch-ignite",
    "scikit-learn",
    "opencv-python-headless",
    "pillow",
)


def installed_versions(packages: Sequence[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the given distributions that are installed."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def split_of(record: Mapping[str, Any]) -> str | None:
    """Return the split that a record tells of; version 0.1.0 called it ``part``.

    Examples:
        >>> split_of({"split": "test"}), split_of({"part": "validation"}), split_of({})
        ('test', 'validation', None)
    """
    return record.get("split", record.get("part"))


@functools.cache
def source_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with ``-dirty`` if changed.

    ``None`` for an installed wheel, whose version says it, and where git cannot be asked.
    """
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    words = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty"]
    words += ["--exclude=*"]  # the commit itself, not a tag
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _arithmetic() -> dict[str, Any]:
    """Return what torch computes with on the CPU, if this process has imported it."""
    if "torch" not in sys.modules:
        return {}
    from busi_monai.devices import cpu_instructions

    threads = sys.modules["torch"].get_num_threads()
    return {"instructions": cpu_instructions(), "threads": threads}


@dataclass
class RunRecord:
    """The record written as ``run.json`` beside every output.

    Make it when a command starts, add to ``details`` (device, seed, hashes, counts) and by ``fail``
    and ``warn`` on the way, and ``write`` it at the end; the duration is measured between the two.
    """

    command: Sequence[str] = field(default_factory=lambda: [Path(sys.argv[0]).name, *sys.argv[1:]])
    details: dict[str, Any] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    commit: str | None = field(default_factory=source_commit)

    def fail(self, file: str | Path, error: object) -> None:
        """Add a failed input with its reason."""
        self.failures.append({"file": named(file), "message": named(error)})

    def warn(self, file: str | Path, warning: PredictionWarning) -> None:
        """Add a warning of an image; each kind once for the frames of a file, given in turn."""
        new = {"file": named(file), **asdict(warning)}
        for known in reversed(self.warnings):
            if known["file"] != new["file"]:
                break
            if new.items() <= known.items():
                known["images"] += 1
                return
        self.warnings.append({**new, "images": 1})

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {
            "command": [str(word) for word in self.command],
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 3),
            "versions": installed_versions(),
            "commit": self.commit,
            "platform": {
                "system": platform.system(),
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
                **_arithmetic(),
            },
            **self.details,
            "failures": self.failures,
            "warnings": self.warnings,
        }

    def write(self, folder: str | Path, details: Mapping[str, Any] | None = None) -> Path:
        """Write ``run.json`` into a folder and return its path."""
        self.details.update(details or {})
        path = Path(folder) / "run.json"
        write_json(path, self.as_dict())
        return path
