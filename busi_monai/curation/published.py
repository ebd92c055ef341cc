"""The splits that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

from busi_monai.files import find_named

__all__ = ["find_split", "shipped_splits"]

_FOLDER = Path(__file__).resolve().parent.parent / "published_splits"


def shipped_splits() -> dict[str, Path]:
    """Return the datalists of the shipped splits by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.json"), key=lambda p: p.stem)}


def find_split(name_or_path: str | Path) -> Path:
    """Return the path of a shipped split's datalist by name, or of another datalist.

    Raises:
        InputError: if it is neither; the message lists the names.
    """
    return find_named(name_or_path, shipped_splits(), "datalist", "a datalist.json")
