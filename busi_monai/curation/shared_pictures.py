"""Whether datasets that are trained and evaluated on together share pictures across their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busi_monai.cases import Problem
from busi_monai.curation.datalist import load_datalist
from busi_monai.curation.near_duplicates import find_near_duplicates
from busi_monai.curation.prepared_files import ImageReading
from busi_monai.curation.verify import CERTAIN_CORRELATION, Progress, side_of
from busi_monai.errors import InputError

__all__ = ["SharedPictures", "find_shared_pictures"]


@dataclass(frozen=True)
class SharedPictures:
    """What ``find_shared_pictures`` found.

    Attributes:
        images: how many pictures were compared.
        problems: a pair on different sides of the split each.
        same_side: number of pairs whose pictures are both trained on, or both in one part or fold.
    """

    images: int
    problems: Sequence[Problem]
    same_side: int

    @property
    def ok(self) -> bool:
        """Whether no picture of one dataset leaks into another's evaluation."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "ok": self.ok,
            "images": self.images,
            "same_side": self.same_side,
            "problems": [problem.as_dict() for problem in self.problems],
        }


def find_shared_pictures(
    folders: Sequence[str | Path], *, progress: Progress | None = None
) -> SharedPictures:
    """Find near-duplicates between prepared datasets, in the pixels.

    A picture may stand in two collections, rescaled or cropped. Where one of them is trained on and
    the other evaluated, figures of the two together leak, however sound each dataset is by itself.

    Args:
        folders: prepared datasets, two or more.
        progress: wraps the items that are gone through, to show a bar.

    Raises:
        InputError: if there are fewer than two folders, one comes twice, or one has no datalist.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise InputError("expected two different prepared datasets or more to compare")
    owned = {
        f"{number}/{item['image']}": (path, item)
        for number, path in enumerate(paths)
        for item in _whole_items(path)
    }
    keys = list(owned)
    shown = progress([item for _, item in owned.values()]) if progress else owned.values()
    pictures = (
        (key, pixels)
        for key, _ in zip(keys, shown, strict=True)
        for _, pixels in ImageReading(owned[key][0]).pictures([owned[key][1]])
    )
    found = find_near_duplicates(pictures)
    between = [
        (pair.a, pair.b)
        for pair in found.pairs
        if pair.correlation >= CERTAIN_CORRELATION and pair.a.split("/")[0] != pair.b.split("/")[0]
    ]
    problems = [
        _problem(owned[a], owned[b])
        for a, b in between
        if side_of(owned[a][1]) != side_of(owned[b][1])
    ]
    return SharedPictures(len(owned), problems, len(between) - len(problems))


def _whole_items(folder: Path) -> list[Mapping[str, Any]]:
    """Return an item for each picture, which several training cases may share."""
    items = load_datalist(folder).records()
    return list({item["image"]: item for item in reversed(items)}.values())[::-1]


def _problem(
    first: tuple[Path, Mapping[str, Any]], second: tuple[Path, Mapping[str, Any]]
) -> Problem:
    (folder, item), (other, twin) = first, second
    return Problem(
        item["id"],
        str(folder / item["image"]),
        "shared_picture",
        f"a near-duplicate of this {side_of(item)} image is the {side_of(twin)} image {twin['id']} "
        f"of {other}; leave one of them out",
    )
