"""The space of a search: which configuration keys are varied, and between which values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busi_monai.bundle.configurations import read_configuration
from busi_monai.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["UNSEARCHABLE", "Choices", "Range", "Space", "parse_space", "read_space"]

UNSEARCHABLE = {
    "bundle_root": "it is a path",
    "dataset_dir": "it is a path",
    "output_dir": "it is a path",
    "resume": "it is how a run is started",
    "fold": "scores of different images can't be compared",
    "classes": "scores of different tasks can't be compared",
    "select_by": "it is the score itself",
    "device_name": "it is where the search runs",
}
"""Keys that no space may hold, and why."""

_RANGE_KEYS = ("low", "high", "log", "step", "type")


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included.

    Attributes:
        low: smallest value.
        high: largest value.
        integer: whole numbers only.
        log: drawn evenly on a logarithmic scale.
        step: distance between values; ``None`` for 1 (whole numbers) or a continuum.
    """

    low: float
    high: float
    integer: bool = False
    log: bool = False
    step: float | None = None

    def distribution(self) -> BaseDistribution:
        """Return the range in Optuna's terms."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integer:
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def decode(self, value: Any) -> Any:
        """Return the value for the configuration: 0.3 where steps of 0.1 add up to less or more."""
        return value if self.integer or self.step is None else float(f"{value:.12g}")


@dataclass(frozen=True)
class Choices:
    """Some values of any kind: numbers, names, lists, mappings.

    Attributes:
        values: by the text that stands for each in the search's record.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    def distribution(self) -> BaseDistribution:
        """Return the choice in Optuna's terms."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(self.values))

    def decode(self, value: Any) -> Any:
        """Return the value for the configuration."""
        return self.values[value]


@dataclass(frozen=True)
class Space:
    """What is varied: a range or choices by configuration key."""

    parameters: Mapping[str, Range | Choices]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the space in Optuna's terms."""
        return {key: parameter.distribution() for key, parameter in self.parameters.items()}

    def decode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a trial's values for the configuration."""
        return {key: self.parameters[key].decode(value) for key, value in values.items()}

    def clashes(self, keys: Sequence[str]) -> list[str]:
        """Return those of some configuration keys that the space varies as well."""
        varied = [f"{key}#" for key in self.parameters]
        return [
            key
            for key in keys
            if any(f"{key}#".startswith(mine) or mine.startswith(f"{key}#") for mine in varied)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the space as plain JSON values, as it can be written into a space file."""
        return {
            key: (
                {"choices": list(parameter.values.values())}
                if isinstance(parameter, Choices)
                else _range_as_dict(parameter)
            )
            for key, parameter in self.parameters.items()
        }


def read_space(path: str | Path) -> Space:
    """Read a space file.

    Raises:
        InputError: if it is missing, is no YAML mapping, or an entry is none of a space.
    """
    path = Path(path)
    return parse_space(read_configuration(path), str(path))


def parse_space(content: Any, where: str = "the space") -> Space:
    """Return the space that a mapping states.

    Args:
        content: ``{low, high}`` with ``log``, ``step`` and ``type`` (``int`` or ``float``; by
            default ``int`` if all numbers are whole), or ``{choices: […]}``, by configuration key;
            nested keys as ``a#b``.
        where: how errors call it.

    Raises:
        InputError: if an entry is of neither form, or a range or choice leaves nothing to vary.

    Examples:
        >>> space = parse_space({
        ...     "learning_rate": {"low": "1e-4", "high": 0.01, "log": True},
        ...     "image_size": {"choices": [[128, 128], [256, 256]]},
        ... })
        >>> space.parameters["learning_rate"]
        Range(low=0.0001, high=0.01, integer=False, log=True, step=None)
        >>> space.decode({"image_size": "[256, 256]"})
        {'image_size': [256, 256]}
    """
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{where}: expected a mapping of configuration keys, such as "
            "learning_rate: {low: 0.0001, high: 0.01, log: true}"
        )
    parameters: dict[str, Range | Choices] = {}
    for name, entry in content.items():
        key = str(name).replace("::", "#")
        if key.split("#")[0] in UNSEARCHABLE:
            raise InputError(f"{where}: {key} can't be searched: {UNSEARCHABLE[key.split('#')[0]]}")
        if isinstance(entry, dict) and set(entry) == {"choices"}:
            parameters[key] = _choices(entry["choices"], f"{where}: {key}")
        elif isinstance(entry, dict) and {"low", "high"} <= set(entry) <= set(_RANGE_KEYS):
            parameters[key] = _range(entry, f"{where}: {key}")
        else:
            raise InputError(
                f"{where}: {key}: expected {{low, high}} with or without log, step and type, or "
                f"{{choices: […]}}, found {entry!r}"
            )
    return Space(parameters)


def _choices(values: Any, where: str) -> Choices:
    if not isinstance(values, list) or len(values) < 2:
        raise InputError(f"{where}: expected a list of two choices or more, found {values!r}")
    try:
        named = {json.dumps(value, sort_keys=True, ensure_ascii=False): value for value in values}
    except TypeError as error:
        raise InputError(f"{where}: a choice is no plain value: {error}") from error
    if len(named) < len(values):
        raise InputError(f"{where}: a choice is listed twice in {values!r}")
    return Choices(named)


def _range(entry: Mapping[str, Any], where: str) -> Range:
    numbers = {
        name: _number(entry[name], f"{where}: {name}")
        for name in ("low", "high", "step")
        if entry.get(name) is not None
    }
    if {"low", "high"} - set(numbers):
        raise InputError(f"{where}: low and high must be numbers")
    log, step, kind = entry.get("log", False), numbers.get("step"), entry.get("type")
    if not isinstance(log, bool):
        raise InputError(f"{where}: log must be true or false, found {log!r}")
    if kind not in {None, "int", "float"}:
        raise InputError(f"{where}: type must be int or float, found {kind!r}")
    whole = all(isinstance(number, int) for number in numbers.values())
    if kind == "int" and not whole:
        raise InputError(f"{where}: type is int, but low, high or step is not a whole number")
    low, high = numbers["low"], numbers["high"]
    if not low < high:
        raise InputError(f"{where}: low must be below high, found {low} and {high}")
    if log and low <= 0:
        raise InputError(f"{where}: low must be above 0 on a logarithmic scale, found {low}")
    if log and step is not None:
        raise InputError(f"{where}: log and step exclude each other")
    if step is not None and not 0 < step <= high - low:
        raise InputError(f"{where}: step must be between 0 and {high - low}, found {step}")
    integer = kind == "int" or (kind is None and whole)
    if not integer:
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Range(low, high, integer, log, step)


def _number(value: Any, where: str) -> int | float:
    # YAML 1.1 reads 1e-3 as text
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(f"{where}: expected a number, found {value!r}")
    try:
        number = value if isinstance(value, int) else float(value)
    except ValueError:
        raise InputError(f"{where}: expected a number, found {value!r}") from None
    if not math.isfinite(number):
        raise InputError(f"{where}: expected a finite number, found {value!r}")
    return number


def _range_as_dict(parameter: Range) -> dict[str, Any]:
    entry: dict[str, Any] = {"low": parameter.low, "high": parameter.high}
    entry["type"] = "int" if parameter.integer else "float"
    if parameter.log:
        entry["log"] = True
    if parameter.step is not None:
        entry["step"] = parameter.step
    return entry
