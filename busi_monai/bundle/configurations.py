"""Configurations as YAML files: bundles' own, and the overlays laid over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from busi_monai.errors import InputError
from busi_monai.files import write_text

__all__ = [
    "RENAMED_KEYS",
    "check_imports",
    "current_names",
    "current_training",
    "differences",
    "imports_of",
    "read_configuration",
    "refuse_differences",
    "write_configuration",
]

RENAMED_KEYS = {"average_decay": "ema_decay", "flip_averaging": "tta_flip", "part": "split"}
"""Keys of configurations and settings of version 0.1.0, with today's names."""

_RENAMED = (
    *(
        (pattern.format(key), rf"\g<1>{now}")
        for key, now in {**RENAMED_KEYS, "operating": "settings"}.items()
        for pattern in (r"(?m)(^\s*){}(?=:)", r"(@){}\b")
    ),
    (r"load_operating_point\(@bundle_root \+ '/operating\.json'", "load_settings(@bundle_root"),
    (
        r"busi_monai\.training\.training_record\(@bundle_root\)",
        "busi_monai.bundle.Bundle(@bundle_root).training_record",
    ),
    (r"busi_monai\.operating\b", "busi_monai.settings"),
    (r"\bOperatingPoint\b", "InferenceSettings"),
    (r"\bWeightAverage\b", "ModelEma"),
    (r"\bUpdateAverage\b", "UpdateEma"),
    (r"\bscan_pictures\b", "scan_images"),
)
"""Patterns of what configurations of version 0.1.0 call otherwise, with today's names."""

SHOWN = 5
LONGEST = 120
"""Differences that a message names, and characters of a value in it."""


def current_names(text: str) -> str:
    """Return the text of a configuration with today's names in place of those of version 0.1.0.

    Examples:
        >>> print(current_names("operating: $busi_monai.operating.OperatingPoint(tta=@operating)"))
        settings: $busi_monai.settings.InferenceSettings(tta=@settings)
        >>> print(current_names("dataset_dir: /data/operating/flip_averaging"))  # a path stays
        dataset_dir: /data/operating/flip_averaging
    """
    for pattern, now in _RENAMED:
        text = re.sub(pattern, now, text)
    return text


def read_configuration(path: str | Path) -> dict[str, Any]:
    """Read a configuration: a YAML mapping, references and expressions left as they are.

    What version 0.1.0 called otherwise has today's name.

    Raises:
        InputError: if the file is missing, cannot be read, or is no YAML mapping.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_configuration(Path(folder) / "mine.yaml", {"batch_size": 4})
        ...     read_configuration(Path(folder) / "mine.yaml")
        {'batch_size': 4}
    """
    path = Path(path)
    try:
        content = yaml.safe_load(current_names(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of configuration keys")
    return current_training(content)


def current_training(config: dict[str, Any]) -> dict[str, Any]:
    """Return a training configuration that version 0.1.0 wrote as today's, with its own tunables.

    Any other configuration stays as it is.
    """
    if not {"run_folder", "train"} <= config.keys() or "start" in config:
        return config
    from busi_monai.bundle.shipped import find_bundle

    text = (find_bundle() / "configs" / "train.yaml").read_text(encoding="utf-8")
    # a run keeps its configuration as MONAI has read it: a::b for a#b
    today = yaml.safe_load(re.sub(r"(?<=\w)#(?=\w)", "::", text))
    today["training"] = today["run"]
    tunables = [*today][: [*today].index("settings")]  # what stands before the recipe
    own = {key: config[key] for key in tunables if key in config}
    imports = [*dict.fromkeys([*today["imports"], *imports_of(config)])]
    return {**today, **own, "imports": imports, "bundle_root": today["bundle_root"]}


def write_configuration(path: str | Path, config: Mapping[str, Any]) -> None:
    """Write a configuration atomically, its keys in their order."""
    write_text(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100))


def imports_of(config: Mapping[str, Any]) -> list[str]:
    """Return the import statements of a configuration, or of an overlay that adds some.

    Examples:
        >>> imports_of({"imports": ["$import torch"], "+imports": ["$import mine"]})
        ['$import torch', '$import mine']
    """
    named = [config.get(key) or [] for key in ("imports", "+imports")]
    return [each for part in named for each in ([part] if isinstance(part, str) else part)]


def check_imports(files: Iterable[Path]) -> None:
    """Import what configurations import: MONAI passes over a module that it does not find.

    Raises:
        InputError: if a module is not found; the message names the file and what to do.
    """
    for path in files:
        expressions = [each for each in imports_of(read_configuration(path)) if each[0] == "$"]
        for statement in (each[1:].strip() for each in expressions):
            try:
                exec(statement, {})
            except ImportError as error:
                raise InputError(
                    f"{path} asks for {statement!r}, which does not work: {error}. Install the "
                    "module, or name its folder in the environment variable PYTHONPATH"
                ) from error


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield a sentence for each value that differs between two configurations.

    Examples:
        >>> list(differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}}))
        ['a#b was 1, now 3', 'c was 2, now left out']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{where}#{key}" if where else str(key)
            if key not in now:
                yield f"{inner} was {_shown(before[key])}, now left out"
            elif key not in before:
                yield f"{inner} was left out, now {_shown(now[key])}"
            else:
                yield from differences(before[key], now[key], inner)
    elif before != now:
        yield f"{where} was {_shown(before)}, now {_shown(now)}"


def refuse_differences(folder: Path, before: Any, now: Any, remedy: str) -> None:
    """Refuse to go on with another configuration than the one that a folder was started with.

    Args:
        folder: of the run or experiment, for the message.
        before: what it was started with, as plain values.
        now: what it is told now.
        remedy: sentence that says what to do.

    Raises:
        InputError: if they differ; the message names the keys, with both values of each.

    Examples:
        >>> refuse_differences(Path("run"), {"seed": 0}, {"seed": 1}, "Begin a new run")
        Traceback (most recent call last):
        busi_monai.errors.InputError: run was started otherwise: seed was 0, now 1. Begin a new run
    """
    found = list(differences(before, now))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(
            f"{folder} was started otherwise: {'; '.join(found[:SHOWN])}{more}. {remedy}"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
