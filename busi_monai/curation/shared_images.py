"""Whether datasets that are trained and evaluated on together share images across their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from busi_monai.cases import DatasetIssue
from busi_monai.curation.datalist import inspect_datalist
from busi_monai.curation.near_duplicates import find_near_duplicates
from busi_monai.curation.prepared_files import ImageReading
from busi_monai.curation.verify import CERTAIN_CORRELATION, Progress, side_of
from busi_monai.datasets import natural_key
from busi_monai.errors import InputError

__all__ = ["SharedImages", "check_different", "find_shared_images"]

UNREAD = ("missing_image", "unreadable")


@dataclass(frozen=True)
class SharedImages:
    """What ``find_shared_images`` found.

    Attributes:
        images: how many images were read and compared.
        problems: a pair on different sides of the split each (``shared_image``), and images
            that could not be read.
        same_side: number of pairs whose images are both trained on, or both in one part or fold.
    """

    images: int
    problems: Sequence[DatasetIssue]
    same_side: int

    @property
    def ok(self) -> bool:
        """Whether all was read, and no near-duplicates stand on different sides of the split."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "ok": self.ok,
            "images": self.images,
            "same_side": self.same_side,
            "problems": [problem.as_dict() for problem in self.problems],
        }


def find_shared_images(
    folders: Sequence[str | Path], *, progress: Progress | None = None
) -> SharedImages:
    """Find near-duplicates between prepared datasets, in the pixels.

    An image may stand in two collections, rescaled or cropped. Where one of them is trained on and
    the other evaluated, figures of the two together leak, however sound each dataset is by itself.
    A pair in different parts or folds is a problem whatever the protocols, also one of validation
    and test: what is chosen by the one flatters the other.

    Args:
        folders: prepared datasets, two or more, or their datalists.
        progress: wraps the items that are gone through, to show a bar.

    Raises:
        InputError: if there are fewer than two folders, one comes twice, or one has no datalist.
    """
    paths = [_folder(folder) for folder in folders]
    check_different(paths)
    owned: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for number, path in enumerate(paths):
        owned |= {f"{number}/{item['image']}": (path, item) for item in _whole_items(path)}
    readings = {path: ImageReading(path) for path in paths}
    shown = progress([item for _, item in owned.values()]) if progress else owned.values()
    loaded_images = (
        (key, pixels)
        for key, _ in zip(owned, shown, strict=True)
        for _, pixels in readings[owned[key][0]].loaded_images([owned[key][1]])
    )
    found = find_near_duplicates(loaded_images)
    between = [
        (pair.a, pair.b)
        for pair in found.pairs
        if pair.correlation >= CERTAIN_CORRELATION and pair.a.split("/")[0] != pair.b.split("/")[0]
    ]
    leaking = [
        _problem(owned[a], owned[b])
        for a, b in between
        if side_of(owned[a][1]) != side_of(owned[b][1])
    ]
    unread = [
        replace(problem, file=str(path / problem.file))
        for path, reading in readings.items()
        for problem in reading.problems
        if problem.kind in UNREAD
    ]
    read = sum(len(reading.shapes) for reading in readings.values())
    return SharedImages(read, [*unread, *leaking], len(between) - len(leaking))


def check_different(folders: Sequence[str | Path]) -> None:
    """Refuse to compare a folder with itself.

    Raises:
        InputError: if there are fewer than two folders, or one comes twice.
    """
    if len(folders) < 2:
        raise InputError("expected two prepared datasets or more to compare")
    real = [Path(folder).resolve() for folder in folders]
    repeated = sorted({path for path in real if real.count(path) > 1}, key=natural_key)
    if repeated:
        raise InputError(
            f"{', '.join(map(str, repeated))} is given more than once; give each dataset once"
        )


def _folder(path: str | Path) -> Path:
    """Return a prepared folder, also where its datalist is given."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _whole_items(folder: Path) -> list[Mapping[str, Any]]:
    """Return an item for each image, which several training cases may share.

    What is wrong with the datalist itself is for ``verify_prepared`` to say.
    """
    items = inspect_datalist(folder)[0].records()
    return list({item["image"]: item for item in reversed(items)}.values())[::-1]


def _problem(
    first: tuple[Path, Mapping[str, Any]], second: tuple[Path, Mapping[str, Any]]
) -> DatasetIssue:
    (folder, item), (other, twin) = first, second
    return DatasetIssue(
        item["id"],
        str(folder / item["image"]),
        "shared_image",
        f"a near-duplicate of this {side_of(item)} image is the {side_of(twin)} image {twin['id']} "
        f"of {other}; leave one of them out",
    )
