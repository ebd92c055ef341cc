"""What an experiment was started with, so that going on with something else is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.shipped import find_bundle, find_config

__all__ = ["MACHINE_KEYS", "differences", "effective_configuration", "keep_plan"]

MACHINE_KEYS = ("device_name", "num_workers", "cache_dir", "dataset_dir", "output_dir", "resume")
"""Configuration keys that may differ between the machines that go on with one experiment."""

SHOWN = 5


def effective_configuration(
    bundle: str | Path, configs: Sequence[str | Path], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a bundle's training configuration with overlays and overrides laid on.

    References stay as they are; ``MACHINE_KEYS`` are left out.

    Raises:
        InputError: if the bundle or an overlay is not there.
    """
    files = [find_bundle(bundle) / "configs" / "train.yaml", *(find_config(c) for c in configs)]
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in files]))
    for key, value in overrides.items():
        if value is not None:
            parser[key.replace("::", "#")] = value
    content: dict[str, Any] = parser.get()
    return {key: value for key, value in content.items() if key not in MACHINE_KEYS}


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
        found = list(differences(read_json(path), plan))
        if found:
            more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise InputError(
                f"{path.parent} was started otherwise: {'; '.join(found[:SHOWN])}{more}. Go on "
                "with the same settings and datasets, or choose another folder"
            )
        return
    folder = path.parent
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not path.is_file():
        raise InputError(f"{folder} is not empty and holds no {path.name}; choose another folder")
    write_json(path, plan)


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield a sentence for each value that differs between two plans.

    Examples:
        >>> list(differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}}))
        ['a#b was 1, now 3', 'c was 2, now left out']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{where}#{key}" if where else str(key)
            if key not in now:
                yield f"{inner} was {before[key]!r}, now left out"
            elif key not in before:
                yield f"{inner} was left out, now {now[key]!r}"
            else:
                yield from differences(before[key], now[key], inner)
    elif before != now:
        yield f"{where} was {before!r}, now {now!r}"
