"""Whether prepared folders hold what their datalists say, and whether their splits leak.

Nothing that ``prepare`` noted about near-duplicates is believed: they are found anew in the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busi_monai.cases import CLASSES, DatasetIssue
from busi_monai.curation.datalist import DATALIST_NAME, inspect_datalist
from busi_monai.curation.label_hashes import note_without_label_hashes
from busi_monai.curation.near_duplicates import NearDuplicates, Pair, find_near_duplicates
from busi_monai.curation.protocols import PROTOCOLS
from busi_monai.curation.splits import Leaks, find_leaks
from busi_monai.curation.storage import IMAGES, LABELS
from busi_monai.datasets import natural_key
from busi_monai.errors import ImageReadError, InputError
from busi_monai.files import file_sha256, read_json
from busi_monai.io.images import mask_sha256, read_image

__all__ = [
    "CERTAIN_CORRELATION",
    "Check",
    "SharedImages",
    "VerifyReport",
    "check_different",
    "find_shared_images",
    "verify_prepared",
]


CERTAIN_CORRELATION = 0.45
"""Aligned correlation from which a pair counts here. It lies above the audit's bound, so that a
pair just below that bound, which moves a little with the set it is compared in and with the
version of OpenCV, can't turn a sound folder red; copies of one image lie well above both."""

Item = Mapping[str, Any]
Progress = Callable[[Sequence[Item]], Iterable[Item]]


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    name: str
    checked: int
    kinds: tuple[str, ...]
    judged: bool = True


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify_prepared`` found.

    Attributes:
        folder: that was checked.
        protocol: of its datalist.
        problems: everything that makes it red, with the id and the file.
        leaks: evaluation images with a near-duplicate in training, found anew in the pixels.
        stated_leaks: their number as the datalist states it, counted among all images of the
            dataset and with the audit's lower bound.
        leaks_allowed: whether the protocol states leaks instead of failing on them.
        checks: what was looked at.
    """

    folder: Path
    protocol: str
    problems: Sequence[DatasetIssue]
    leaks: Leaks
    stated_leaks: int
    leaks_allowed: bool
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def problems_of(self, check: Check) -> int:
        """Return how many problems a check found."""
        return sum(problem.kind in check.kinds for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "ok": self.ok,
            "folder": str(self.folder),
            "protocol": self.protocol,
            "checks": [
                {
                    "name": check.name,
                    "checked": check.checked,
                    "problems": self.problems_of(check),
                    "judged": check.judged,
                }
                for check in self.checks
            ],
            "leaks": self.leaks.as_dict(),
            "stated_leaks": self.stated_leaks,
            "leaks_allowed": self.leaks_allowed,
            "problems": [problem.as_dict() for problem in self.problems],
        }


@dataclass(frozen=True)
class SharedImages:
    """What ``find_shared_images`` found.

    Attributes:
        images: how many images were read and compared.
        problems: a pair on different sides of the split each (``shared_image``), and images
            that could not be read.
        same_side: number of pairs whose images are both trained on, or both in one split or fold.
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


def verify_prepared(folder: str | Path, *, progress: Progress | None = None) -> VerifyReport:
    """Check a prepared folder against its datalist, and its splits against each other.

    Checked are the datalist's form and hash; that every image and label is there, unchanged and
    nothing else lies beside them; that a label has its image's size and only the values 0 and
    255; that no pixels, group or near-duplicate stand on both sides of a split. The last is a
    problem for the protocols that promise it, and stated for the others.

    Args:
        folder: as made by ``prepare_dataset``.
        progress: wraps the items that are gone through, to show a bar.

    Raises:
        InputError: if there is no datalist, or none of this form.
    """
    folder = Path(folder)
    datalist, faults = inspect_datalist(folder)
    if datalist.protocol not in PROTOCOLS:
        raise InputError(
            f"{folder / DATALIST_NAME}: unknown protocol {datalist.protocol!r}; expected one of "
            f"{', '.join(PROTOCOLS)}"
        )
    strict = PROTOCOLS[datalist.protocol].leak_free
    items = datalist.records()
    if datalist.labels_sha256 is None:
        note_without_label_hashes(str(folder))
    reading = _ImageReading(folder)
    once = _one_per_image(items)
    found = find_near_duplicates(reading.images(progress(once) if progress else once))
    id_of = {item["image"]: item["id"] for item in once}
    alike = [[id_of[pair.a], id_of[pair.b]] for pair in _certain(found)]
    whole = [item for item in items if "part_of" not in item["meta"]]
    folds = {item["id"]: item["fold"] for item in whole if item["fold"] is not None}
    leaks = find_leaks({item["id"]: item["split"] for item in whole}, folds, alike)
    recorded = _recorded_files(folder)
    problems = [
        *(DatasetIssue("", DATALIST_NAME, "datalist", fault) for fault in faults),
        *_file_problems(folder, items, recorded),
        *reading.problems,
        *(
            DatasetIssue(item["id"], item["label"], *fault)
            for item in items
            if item["label"] is not None
            and (fault := _label_fault(folder, item, reading.shapes.get(item["image"])))
        ),
    ]
    if strict:
        problems += _torn_apart(items, "sha256", "overlap", "the same pixels")
        problems += _torn_apart(items, "group", "split_group", "one group")
        image_of = {item["id"]: item["image"] for item in items}
        problems += [
            DatasetIssue(
                name,
                image_of[name],
                "near_duplicate",
                f"a near-duplicate of this {split} image is a training image; prepare the dataset "
                "again",
            )
            for split, names in leaks.ids.items()
            for name in names
        ]
    checks = _checks(items, len(recorded), strict=strict)
    return VerifyReport(
        folder, datalist.protocol, problems, leaks, datalist.leaks["count"], not strict, checks
    )


def _checks(items: Sequence[Item], recorded: int, *, strict: bool) -> list[Check]:
    images = len({item["image"] for item in items})
    labels = len({item["label"] for item in items if item["label"]})
    listed = len({item["label"] for item in items if item.get("label_sha256")})
    of_images = ("missing_image", "unreadable", "changed_pixels")
    of_labels = (
        "missing_label", "unreadable_label", "size_mismatch", "label_values", "empty_mask"
    )  # fmt: skip
    return [
        Check("datalist: form, ids, hash", 1, ("datalist",)),
        Check("files: hashes as recorded", recorded, ("changed_file",)),
        Check("files: none that the datalist does not name", images + labels, ("stray_file",)),
        Check("images: present, readable, pixels as listed", images, of_images),
        Check("labels: present, of their image's size, 0 and 255 only", labels, of_labels),
        Check("labels: masks as listed", listed, ("changed_mask",)),
        Check("splits: no pixels or group in two", len(items), ("overlap", "split_group"), strict),
        Check("splits: no near-duplicate across", images, ("near_duplicate",), strict),
    ]


def find_shared_images(
    folders: Sequence[str | Path], *, progress: Progress | None = None
) -> SharedImages:
    """Find near-duplicates between prepared datasets, in the pixels.

    An image may stand in two collections, rescaled or cropped. Where one of them is trained on and
    the other evaluated, figures of the two together leak, however sound each dataset is by itself.
    A pair in different splits or folds is a problem whatever the protocols, also one of validation
    and test: what is chosen by the one flatters the other.

    Args:
        folders: prepared datasets, two or more, or their datalists. What is wrong with a datalist
            itself is for ``verify_prepared`` to say.
        progress: wraps the items that are gone through, to show a bar.

    Raises:
        InputError: if there are fewer than two folders, one comes twice, or one has no datalist.
    """
    paths = [Path(path) if Path(path).is_dir() else Path(path).parent for path in folders]
    check_different(paths)
    owned = {
        f"{number}/{item['image']}": (path, item)
        for number, path in enumerate(paths)
        for item in _one_per_image(inspect_datalist(path)[0].records())
    }
    readings = {path: _ImageReading(path) for path in paths}
    shown = progress([item for _, item in owned.values()]) if progress else owned.values()
    images = (
        (key, pixels)
        for key, _ in zip(owned, shown, strict=True)
        for _, pixels in readings[owned[key][0]].images([owned[key][1]])
    )
    leaking, same_side = [], 0
    for pair in _certain(find_near_duplicates(images)):
        (folder, item), (other, twin) = owned[pair.a], owned[pair.b]
        if folder == other:
            continue
        if _side(item) == _side(twin):
            same_side += 1
            continue
        message = (
            f"a near-duplicate of this {_side(item)} image is the {_side(twin)} image "
            f"{twin['id']} of {other}; leave one of them out"
        )
        file = str(folder / item["image"])
        leaking.append(DatasetIssue(item["id"], file, "shared_image", message))
    unread = [
        replace(problem, file=str(path / problem.file))
        for path, reading in readings.items()
        for problem in reading.problems
        if problem.kind != "changed_pixels"
    ]
    read = sum(len(reading.shapes) for reading in readings.values())
    return SharedImages(read, [*unread, *leaking], same_side)


def check_different(folders: Sequence[str | Path]) -> None:
    """Refuse to compare a folder with itself, or one with nothing."""
    if len(folders) < 2:
        raise InputError("expected two prepared datasets or more to compare")
    real = [Path(folder).resolve() for folder in folders]
    repeated = sorted({path for path in real if real.count(path) > 1}, key=natural_key)
    if repeated:
        raise InputError(
            f"{', '.join(map(str, repeated))} is given more than once; give each dataset once"
        )


class _ImageReading:
    """One pass over the images of a prepared folder: what is wrong, and the sizes (H, W)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[DatasetIssue] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def images(self, items: Iterable[Item]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield path and (H, W) pixels of each item whose image can be read."""
        for item in items:
            path = self.folder / item["image"]
            if not path.is_file():
                self._fail(item, "missing_image", "the image is gone")
                continue
            try:
                loaded = read_image(path)
            except ImageReadError as error:
                self._fail(item, "unreadable", str(error).removeprefix(f"{path}: "))
                continue
            self.shapes[item["image"]] = loaded.pixels.shape
            if loaded.sha256 != item["sha256"]:
                self._fail(item, "changed_pixels", "other pixels than the datalist lists")
            yield item["image"], loaded.pixels

    def _fail(self, item: Item, kind: str, message: str) -> None:
        self.problems.append(DatasetIssue(item["id"], item["image"], kind, message))


def _recorded_files(folder: Path) -> dict[str, str]:
    """Return ``{relative path: SHA-256}`` from ``run.json``, or nothing where it has none."""
    path = folder / "run.json"
    content = read_json(path) if path.is_file() else {}
    files = content.get("files") if isinstance(content, dict) else None
    return dict(files) if isinstance(files, dict) else {}


def _file_problems(
    folder: Path, items: Sequence[Item], recorded: Mapping[str, str]
) -> Iterator[DatasetIssue]:
    """Yield files of other bytes than recorded, and those that the datalist does not name."""
    for name, sha256 in recorded.items():
        if (folder / name).is_file() and file_sha256(folder / name) != sha256:
            message = "changed after it was written"
            yield DatasetIssue(Path(name).stem, name, "changed_file", message)
    listed = {item[key] for item in items for key in ("image", "label")}
    for kind in (IMAGES, LABELS):
        files = (folder / kind).iterdir() if (folder / kind).is_dir() else ()
        for path in sorted(files, key=natural_key):
            name = f"{kind}/{path.name}"
            if name not in listed and not path.name.startswith("."):
                message = "the datalist does not name it; remove it, or prepare the dataset again"
                yield DatasetIssue("", name, "stray_file", message)


def _label_fault(
    folder: Path, item: Item, expected: tuple[int, ...] | None
) -> tuple[str, str] | None:
    """Return kind and message of what is wrong with one label."""
    try:
        with Image.open(folder / item["label"]) as image:
            values = np.asarray(image)
    except FileNotFoundError:
        return "missing_label", "the label is gone"
    except (OSError, SyntaxError, ValueError) as error:
        return "unreadable_label", f"damaged or no image: {error}"
    shape = values.shape
    if expected is not None and shape != expected:
        found = "×".join(str(side) for side in shape[1::-1] + shape[2:])
        return "size_mismatch", f"expected {expected[1]}×{expected[0]} pixels, found {found}"
    if values.dtype != np.uint8 or not np.isin(values, (0, 255)).all():
        return "label_values", "expected 8-bit values 0 and 255 only"
    if CLASSES[item["class_label"]] != "normal" and not values.any():
        return "empty_mask", "a lesion's label is empty"
    changed = item.get("label_sha256", mask_sha256(values)) != mask_sha256(values)
    message = "another mask than the datalist lists; prepare the dataset again"
    return ("changed_mask", message) if changed else None


def _certain(found: NearDuplicates) -> list[Pair]:
    return [pair for pair in found.pairs if pair.correlation >= CERTAIN_CORRELATION]


def _one_per_image(items: Sequence[Item]) -> list[Item]:
    """Return the first item of each image, which several training cases may share."""
    return list({item["image"]: item for item in reversed(items)}.values())[::-1]


def _side(item: Item) -> str:
    """Return the split that an item is in, or its fold: what a near-duplicate must not leave."""
    return item["split"] if item["fold"] is None else f"fold {item['fold']}"


def _torn_apart(items: Sequence[Item], key: str, kind: str, meaning: str) -> Iterator[DatasetIssue]:
    """Yield a problem for each value of ``key`` that stands on several sides of the split."""
    members: dict[str, list[Item]] = {}
    for item in items:
        members.setdefault(item[key], []).append(item)
    for same in members.values():
        if len({_side(item) for item in same}) > 1:
            where = ", ".join(f"{item['id']} ({_side(item)})" for item in same)
            message = f"{meaning} in several splits: {where}; prepare the dataset again"
            yield DatasetIssue(same[0]["id"], same[0]["image"], kind, message)
