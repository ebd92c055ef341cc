"""Where shipped bundles and configuration overlays lie, in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

from busi_monai.errors import InputError
from busi_monai.files import find_named

__all__ = [
    "DEFAULT_BUNDLE",
    "find_bundle",
    "find_config",
    "shipped_bundles",
    "shipped_configs",
]

DEFAULT_BUNDLE = "breast_ultrasound_segmentation_classification"

_PACKAGE = Path(__file__).resolve().parent.parent


def _folder(name: str) -> Path:
    installed = _PACKAGE / "_shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def shipped_bundles() -> dict[str, Path]:
    """Return the shipped bundles' folders by name."""
    return {
        path.parent.parent.name: path.parent.parent
        for path in sorted(_folder("bundles").glob("*/configs/metadata.json"))
    }


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configuration overlays by name, without ``.yaml``."""
    return {path.stem: path for path in sorted(_folder("configs").glob("*.yaml"))}


def find_config(name_or_file: str | Path) -> Path:
    """Return the path of a shipped overlay by name, or of a file.

    Raises:
        InputError: if it is neither; the message lists the names.
    """
    return find_named(name_or_file, shipped_configs(), "configuration", "a YAML file")


def find_bundle(name_or_folder: str | Path = DEFAULT_BUNDLE) -> Path:
    """Return the folder of a shipped bundle by name, or of a bundle or run given by its path.

    Raises:
        InputError: if it is neither, or the folder has no ``configs/inference.yaml``.
    """
    shipped = shipped_bundles()
    if str(name_or_folder) in shipped:
        return shipped[str(name_or_folder)]
    path = Path(name_or_folder).absolute()
    if not path.is_dir():
        raise InputError(
            f"no bundle or run {str(name_or_folder)!r}; expected a folder or one of "
            f"{', '.join(shipped)}"
        )
    if not (path / "configs" / "inference.yaml").is_file():
        raise InputError(f"{path} is not a bundle: configs/inference.yaml is missing")
    return path
