"""Which images a network was trained on, by content, so that none is taken for a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json

__all__ = [
    "TRAINING_IMAGES",
    "knows_training_images",
    "read_training_images",
    "seen_in_training",
    "write_training_images",
]

TRAINING_IMAGES = "training_images.json"
"""File in a run or bundle: ``{"sha256": [...]}``, sorted hashes of the images trained on.

``"complete": false`` beside it: these are some of them, the others are not known.
"""


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

    They may be some of them only; see ``knows_training_images``.

    Raises:
        InputError: if the file is there but holds something else.
    """
    content = _content(folder)
    return None if content is None else frozenset(content["sha256"])


def knows_training_images(folder: str | Path) -> bool:
    """Return whether all images that a run or bundle was trained on are known.

    Raises:
        InputError: as ``read_training_images``.
    """
    content = _content(folder)
    return content is not None and content.get("complete", True) is True


def seen_in_training(folder: str | Path, items: Iterable[Mapping[str, Any]]) -> int | None:
    """Return how many of the items' images a run or bundle was trained on.

    ``None`` if the images trained on are not known, or only some of them.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     write_training_images(run, [{"sha256": "a"}, {"sha256": "b"}])
        ...     seen_in_training(run, [{"sha256": "b"}, {"sha256": "c"}])
        1
    """
    known = read_training_images(folder)
    if known is None or not knows_training_images(folder):
        return None
    return sum(item.get("sha256") in known for item in items)


def _content(folder: str | Path) -> dict[str, Any] | None:
    path = Path(folder) / TRAINING_IMAGES
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("sha256"), list):
        raise InputError(f"{path}: expected {{'sha256': [...]}}, got {type(content).__name__}")
    return content
