"""Whether a prepared folder still holds what its datalist says, and whether its parts leak.

Nothing that ``prepare`` noted about near-duplicates is believed: they are found anew in the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from busi_monai.cases import DatasetIssue
from busi_monai.curation.datalist import DATALIST_NAME, inspect_datalist
from busi_monai.curation.label_hashes import note_without_label_hashes
from busi_monai.curation.near_duplicates import find_near_duplicates
from busi_monai.curation.prepared_files import (
    IMAGE_KINDS,
    LABEL_KINDS,
    MASK_KINDS,
    ImageReading,
    changed_files,
    label_problems,
    recorded_files,
    stray_files,
)
from busi_monai.curation.protocols import PROTOCOLS
from busi_monai.curation.splits import Leaks, connected_groups, find_leaks
from busi_monai.errors import InputError

__all__ = ["CERTAIN_CORRELATION", "Check", "Progress", "VerifyReport", "side_of", "verify_prepared"]

CERTAIN_CORRELATION = 0.45
"""Aligned correlation from which a pair counts here. It lies above the audit's bound, so that a
pair just below that bound, which moves a little with the set it is compared in and with the
version of OpenCV, can't turn a sound folder red; copies of one image lie well above both."""

Progress = Callable[[Sequence[Mapping[str, Any]]], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: in words.
        checked: how many images, labels or files were looked at.
        kinds: the kinds of problems that belong to it.
        judged: whether what it finds counts as a problem; else it is stated only.
    """

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
    checks: Sequence[Check] = field(default_factory=tuple)

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


def verify_prepared(folder: str | Path, *, progress: Progress | None = None) -> VerifyReport:
    """Check a prepared folder against its datalist, and its parts against each other.

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
    recorded = recorded_files(folder)
    reading = ImageReading(folder)
    alike = _near_duplicate_groups(reading, items, progress)
    parts, folds = _sides(items)
    leaks = find_leaks(parts, folds, alike)
    problems = [
        *(DatasetIssue("", DATALIST_NAME, "datalist", fault) for fault in faults),
        *changed_files(folder, recorded),
        *stray_files(folder, items),
        *reading.problems,
        *label_problems(folder, items, reading.shapes),
    ]
    if strict:
        problems += _torn_apart(items, "sha256", "overlap", "the same pixels")
        problems += _torn_apart(items, "group", "split_group", "one group")
        problems += _leak_problems(leaks, items)
    checks = _checks(items, recorded, strict=strict)
    return VerifyReport(
        folder, datalist.protocol, problems, leaks, datalist.leaks["count"], not strict, checks
    )


def _checks(
    items: Sequence[Mapping[str, Any]], recorded: Mapping[str, str], *, strict: bool
) -> list[Check]:
    images = len({item["image"] for item in items})
    labels = len({item["label"] for item in items if item["label"]})
    listed = len({item["label"] for item in items if item.get("label_sha256")})
    return [
        Check("datalist: form, ids, hash", 1, ("datalist",)),
        Check("files: hashes as recorded", len(recorded), ("changed_file",)),
        Check("files: none that the datalist does not name", images + labels, ("stray_file",)),
        Check("images: present, readable, pixels as listed", images, IMAGE_KINDS),
        Check("labels: present, of their image's size, 0 and 255 only", labels, LABEL_KINDS),
        Check("labels: masks as listed", listed, MASK_KINDS),
        Check("parts: no pixels or group in two", len(items), ("overlap", "split_group"), strict),
        Check("parts: no near-duplicate across", images, ("near_duplicate",), strict),
    ]


def _near_duplicate_groups(
    reading: ImageReading, items: Sequence[Mapping[str, Any]], progress: Progress | None
) -> list[list[str]]:
    """Read every image once and return groups of certain near-duplicates."""
    once = list({item["image"]: item for item in reversed(items)}.values())[::-1]
    found = find_near_duplicates(reading.loaded_images(progress(once) if progress else once))
    certain = [[p.a, p.b] for p in found.pairs if p.correlation >= CERTAIN_CORRELATION]
    id_of = {item["image"]: item["id"] for item in once}
    groups: dict[str, list[str]] = {}
    for path, group in connected_groups(list(id_of), certain).items():
        groups.setdefault(group, []).append(id_of[path])
    return [members for members in groups.values() if len(members) > 1]


def _sides(items: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], dict[str, int]]:
    """Return ``{id: part}`` and ``{id: fold}`` of the whole cases."""
    whole = [item for item in items if "part_of" not in item["meta"]]
    parts = {item["id"]: item["part"] for item in whole}
    return parts, {item["id"]: item["fold"] for item in whole if item["fold"] is not None}


def side_of(item: Mapping[str, Any]) -> str:
    """Return the part that an item is in, or its fold: what a near-duplicate must not leave."""
    return item["part"] if item["fold"] is None else f"fold {item['fold']}"


def _torn_apart(
    items: Sequence[Mapping[str, Any]], key: str, kind: str, meaning: str
) -> list[DatasetIssue]:
    """Return a problem for each value of ``key`` that stands on several sides of the split."""
    members: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        members.setdefault(item[key], []).append(item)
    problems = []
    for same in members.values():
        if len({side_of(item) for item in same}) > 1:
            where = ", ".join(f"{item['id']} ({side_of(item)})" for item in same)
            message = f"{meaning} in several parts: {where}; prepare the dataset again"
            problems.append(DatasetIssue(same[0]["id"], same[0]["image"], kind, message))
    return problems


def _leak_problems(leaks: Leaks, items: Sequence[Mapping[str, Any]]) -> list[DatasetIssue]:
    images = {item["id"]: item["image"] for item in items}
    return [
        DatasetIssue(
            name,
            images[name],
            "near_duplicate",
            f"a near-duplicate of this {part} image is a training image; prepare the dataset again",
        )
        for part, names in leaks.ids.items()
        for name in names
    ]
