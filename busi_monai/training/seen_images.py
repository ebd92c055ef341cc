"""Which images a network was trained on, by content, so that none is taken for a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json

__all__ = ["TRAINING_IMAGES", "read_training_images", "seen_in_training", "write_training_images"]

TRAINING_IMAGES = "training_images.json"
"""File in a run or bundle: ``{"sha256": [...]}``, sorted hashes of the images trained on."""


def write_training_images(folder: str | Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write the hashes of the items' images into a run's folder.

    Args:
        folder: the run.
        items: with ``sha256`` as in a datalist; those without are passed over.
    """
    hashes = sorted({item["sha256"] for item in items if item.get("sha256")})
    write_json(Path(folder) / TRAINING_IMAGES, {"sha256": hashes})


def read_training_images(folder: str | Path) -> frozenset[str] | None:
    """Return the hashes of the images that a run or bundle was trained on, ``None`` if unknown.

    Raises:
        InputError: if the file is there but holds something else.
    """
    path = Path(folder) / TRAINING_IMAGES
    if not path.is_file():
        return None
    content = read_json(path)
    hashes = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(hashes, list):
        raise InputError(f"{path}: expected {{'sha256': [...]}}, got {type(content).__name__}")
    return frozenset(hashes)


def seen_in_training(folder: str | Path, items: Iterable[Mapping[str, Any]]) -> int | None:
    """Return how many of the items' images a run or bundle was trained on, ``None`` if unknown.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     write_training_images(run, [{"sha256": "a"}, {"sha256": "b"}])
        ...     seen_in_training(run, [{"sha256": "b"}, {"sha256": "c"}])
        1
    """
    known = read_training_images(folder)
    return None if known is None else sum(item.get("sha256") in known for item in items)
