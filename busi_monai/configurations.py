"""Configurations as YAML files: bundles' own, and the overlays laid over them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from busi_monai.errors import InputError
from busi_monai.files import write_text

__all__ = ["read_configuration", "write_configuration"]


def read_configuration(path: str | Path) -> dict[str, Any]:
    """Read a configuration: a YAML mapping, references and expressions left as they are.

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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of configuration keys")
    return content


def write_configuration(path: str | Path, config: Mapping[str, Any]) -> None:
    """Write a configuration atomically, its keys in their order."""
    write_text(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100))
