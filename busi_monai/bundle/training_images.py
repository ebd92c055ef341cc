"""Which images a network was trained on, by content, so that none is taken for a new one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_monai.curation import Datalist, load_datalist
from busi_monai.curation.datalist import items_of_split
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json

__all__ = [
    "TRAINING_IMAGES",
    "check_same_images",
    "knows_training_images",
    "own_training_images",
    "read_training_images",
    "refuse_held_out_images",
    "seen_in_training",
    "write_training_images",
]

TRAINING_IMAGES = "training_images.json"
"""File in a run or bundle: ``{"sha256": [...]}``, sorted hashes of the images trained on.

``"complete": false`` beside it: these are some of them, the others are not known. ``"own": [...]``:
those that the run itself trains on, where it started from the weights of another one.
"""

_SHOWN = 5


def write_training_images(
    folder: str | Path,
    items: Iterable[Mapping[str, Any]],
    *,
    before: Collection[str] | None = None,
    complete: bool = True,
) -> None:
    """Write the hashes of all images that a run's weights were trained on into its folder.

    Args:
        folder: the run.
        items: what it trains on, with ``sha256`` as in a datalist; those without are passed over.
        before: hashes of what the weights that it starts from were trained on.
        complete: whether ``before`` is known to be all of that.
    """
    own = _hashes(items)
    content: dict[str, Any] = {"sha256": sorted(own.union(before or ()))}
    if not complete:
        content["complete"] = False
    if before is not None:
        content["own"] = sorted(own)
    write_json(Path(folder) / TRAINING_IMAGES, content)


def read_training_images(folder: str | Path) -> frozenset[str] | None:
    """Return the hashes of the images that a run or bundle was trained on, ``None`` if unknown.

    They may be some of them only; see ``knows_training_images``.

    Raises:
        InputError: if the file is there but holds something else.
    """
    content = _content(folder)
    return None if content is None else frozenset(content["sha256"])


def own_training_images(folder: str | Path) -> frozenset[str] | None:
    """Return the hashes of the images that a run itself trains on, ``None`` if unknown.

    Without what the weights that it started from were trained on.

    Raises:
        InputError: as ``read_training_images``.
    """
    content = _content(folder)
    return None if content is None else frozenset(content.get("own", content["sha256"]))


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


def check_same_images(run: str | Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Refuse other images than those a run was started with: reported ones may be among them.

    Args:
        run: the run that is resumed; one that does not tell its images passes.
        items: what it would be trained on now, with ``sha256`` as in a datalist.

    Raises:
        InputError: if they differ; the message counts the images.
    """
    known, found = own_training_images(run), _hashes(items)
    if known is not None and known != found:
        raise InputError(
            f"{run} was started with other training images ({len(found - known)} are new, "
            f"{len(known - found)} are gone): resume it with the same datasets, fold and classes, "
            "or begin a new run"
        )


def refuse_held_out_images(
    images: Collection[str],
    dataset_dir: str | Path | Sequence[str | Path],
    *,
    fold: int | None,
    whose: str,
) -> None:
    """Refuse to train with images that the same training is validated or reported on.

    Compared are the images' pixels, by ``sha256``: near-duplicates are not looked for.

    Args:
        images: hashes of what is trained on, or was before.
        dataset_dir: the prepared folder or folders that are validated and reported on.
        fold: the reported fold, where they have folds.
        whose: what the images are, for the message.

    Raises:
        InputError: if an image of a split validation, test or reported is among them; the message
            tells the split, how many and the first ids.
    """
    folders = [dataset_dir] if isinstance(dataset_dir, (str, Path)) else list(dataset_dir)
    for folder in folders:
        for split, items in _held_out(load_datalist(folder), fold, folder).items():
            seen = [str(item["id"]) for item in items if item["sha256"] in images]
            if seen:
                more = f" and {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else ""
                raise InputError(
                    f"{len(seen)} of the {len(items)} images of the split {split} of {folder} are "
                    f"among {whose}: {', '.join(seen[:_SHOWN])}{more}. The network would remember "
                    "them: what is validated or reported must never be trained on"
                )


def _held_out(
    datalist: Datalist, fold: int | None, folder: str | Path
) -> dict[str, Sequence[Mapping[str, Any]]]:
    if not datalist.folds:
        return {"validation": datalist.validation, "test": datalist.test}
    chosen = {
        name: items_of_split(datalist, name, fold=fold, where=folder, alone=False)
        for name in ("validation", "reported")
    }
    return {**chosen, "test": datalist.test}


def _hashes(items: Iterable[Mapping[str, Any]]) -> set[str]:
    return {item["sha256"] for item in items if item.get("sha256")}


def _content(folder: str | Path) -> dict[str, Any] | None:
    path = Path(folder) / TRAINING_IMAGES
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("sha256"), list):
        raise InputError(f"{path}: expected {{'sha256': [...]}}, got {type(content).__name__}")
    return content
