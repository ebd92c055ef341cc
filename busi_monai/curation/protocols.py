"""The protocols, how images become train, validation and test, and what they are asked with.

``PROTOCOLS`` is the one registry; the command line, ``busi-monai info``, docs and tests read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from busi_monai.cases import DATALIST_KEYS
from busi_monai.curation.id_lists import read_id_list
from busi_monai.curation.splits import (
    Ratios,
    connected_groups,
    group_folds,
    is_class_conflict,
    split_groups,
    split_images,
)
from busi_monai.errors import InputError

if TYPE_CHECKING:
    from busi_monai.curation.storage import Stored

__all__ = [
    "DEDUP",
    "MISSING_MASK",
    "MULTI_MASK",
    "PROTOCOLS",
    "Assignment",
    "Candidate",
    "PrepareOptions",
    "Protocol",
    "candidates_of",
]

DEDUP: tuple[str, ...] = ("none", "exact", "phash")
"""What the protocol ``random`` drops: nothing, equal pixels, near-duplicates."""
MULTI_MASK: tuple[str, ...] = ("union", "split")
MISSING_MASK: tuple[str, ...] = ("exclude", "classify-only")


@dataclass(frozen=True)
class PrepareOptions:
    """How a dataset is prepared; the defaults are those of ``busi-monai prepare``.

    Attributes:
        layout: name of a reader, or ``auto``.
        protocol: name in ``PROTOCOLS``.
        dedup: for ``random``: drop nothing (``none``), equal pixels (``exact``) or near-duplicates
            (``phash``), the first of each is kept.
        ids: file of the ids to keep, for ``curated``.
        known: file of ids and reasons to leave out, see ``read_known_images``.
        train_list: file of ids, for ``file``; so are ``validation_list`` and ``test_list``.
        from_datalist: name of a shipped split, or a ``datalist.json``, to repeat on this copy of
            the dataset. It brings its own protocol, seed and treatment of masks.
        ratios: per cent of train/validation/test.
        folds: number of cross-validation folds, 0 for none.
        seed: of every random draw.
        multi_mask: ``split`` adds a training case for each mask of an image with several.
        missing_mask: whether a lesion without mask is left out or kept for its class alone.
        mask_cleanup: whether masks are smoothed, filled and freed of specks.
        overwrite: whether a folder that was prepared before is replaced.
    """

    layout: str = "auto"
    protocol: str = "leakfree"
    dedup: str = "none"
    ids: Path | None = None
    known: Path | None = None
    train_list: Path | None = None
    validation_list: Path | None = None
    test_list: Path | None = None
    from_datalist: str | Path | None = None
    ratios: str = "80/10/10"
    folds: int = 0
    seed: int = 0
    multi_mask: str = "union"
    missing_mask: str = "exclude"
    mask_cleanup: bool = False
    overwrite: bool = False

    @property
    def lists(self) -> dict[str, Path]:
        """Files of ids by split, for ``file``."""
        given = {split: getattr(self, f"{split}_list") for split in DATALIST_KEYS}
        return {split: Path(path) for split, path in given.items() if path is not None}

    def files(self) -> list[Path]:
        """Return the files that the options name, all of which are read."""
        named = (self.ids, self.known, *self.lists.values(), self.from_datalist)
        return [Path(path) for path in named if path is not None]

    def check(self) -> None:
        """Refuse what has no such value, or goes not together.

        Raises:
            InputError: if an option has no such value, or the protocol does not take it.
        """
        for name, value, allowed in (
            ("protocol", self.protocol, tuple(PROTOCOLS)),
            ("dedup", self.dedup, DEDUP),
            ("multi-mask", self.multi_mask, MULTI_MASK),
            ("missing-mask", self.missing_mask, MISSING_MASK),
        ):
            if value not in allowed:
                raise InputError(f"{name} {value!r}: expected one of {', '.join(allowed)}")
        if self.folds < 0 or self.folds == 1:
            raise InputError(f"{self.folds} folds: expected 0 for none, or at least 2")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: expected 0 or more")
        Ratios.parse(self.ratios)
        if self.from_datalist is None:
            PROTOCOLS[self.protocol].check_options(self)
        elif replace(self, from_datalist=None, layout="auto", overwrite=False) != PrepareOptions():
            raise InputError(
                "--from-datalist brings its own protocol, seed, splits and treatment of masks; "
                "leave out the options that would choose others"
            )


@dataclass(frozen=True)
class Candidate:
    """A usable case, as the protocols see it.

    Attributes:
        id: the case's id.
        class_label: index of its class in ``CLASSES``.
        sha256: hash of its grey pixels.
        duplicates: name of its near-duplicate group.
        group: near-duplicates and patients joined, in chains.
        patient: its patient, ``None`` where the dataset tells none.
        official_fold: its fold in the dataset's own division, from 1, ``None`` where it has none.
        official_split: its split as the dataset ships it, ``None`` where it has none.
    """

    id: str
    class_label: int
    sha256: str
    duplicates: str
    group: str
    patient: str | None = None
    official_fold: int | None = None
    official_split: str | None = None


def candidates_of(
    stored: Mapping[str, Stored], duplicates: Sequence[Sequence[str]]
) -> list[Candidate]:
    """Return stored cases by id as candidates, with their near-duplicate groups."""
    patients: dict[str, list[str]] = {}
    for name, one in stored.items():
        if one.case.group is not None:
            patients.setdefault(one.case.group, []).append(name)
    alike = connected_groups(list(stored), duplicates)
    group = connected_groups(list(stored), [*duplicates, *patients.values()])
    return [
        Candidate(
            id=name,
            class_label=one.case.class_label,
            sha256=one.sha256,
            duplicates=alike[name],
            group=group[name],
            patient=one.case.group,
            official_fold=one.case.meta.get("official_fold"),
            official_split=one.case.meta.get("official_split"),
        )
        for name, one in stored.items()
    ]


@dataclass(frozen=True)
class Assignment:
    """Where every image goes.

    Attributes:
        splits: ``{id: split}``: ``train``, ``validation`` or ``test``.
        folds: ``{id: fold}`` of the split train, empty without folds.
        excluded: ``{id: reason}`` of the images that the protocol leaves out.
    """

    splits: Mapping[str, str]
    folds: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """One way to divide a dataset.

    Attributes:
        name: as given to ``--protocol``.
        description: one sentence.
        assign: divides the usable cases.
        leak_free: whether a near-duplicate across splits is an error.
        options: which of ``ratios, folds, dedup, ids, lists`` it understands.
    """

    name: str
    description: str
    assign: Callable[[Sequence[Candidate], PrepareOptions], Assignment]
    leak_free: bool
    options: tuple[str, ...]

    def check_options(self, options: PrepareOptions) -> None:
        """Refuse options that this protocol would silently ignore, and ask for those it needs.

        Raises:
            InputError: naming the option, and the protocols that take it.
        """
        given = {
            "folds": (bool(options.folds), "--folds"),
            "dedup": (options.dedup != "none", "--dedup"),
            "ids": (options.ids is not None, "--ids"),
            "lists": (bool(options.lists), "--train-list, --validation-list and --test-list"),
        }
        for name, (used, flag) in given.items():
            if used and name not in self.options:
                others = ", ".join(p.name for p in PROTOCOLS.values() if name in p.options)
                raise InputError(f"{flag}: not for the protocol {self.name}, only for {others}")
        if "ids" in self.options and options.ids is None:
            raise InputError(f"the protocol {self.name} needs --ids FILE, the ids to keep")
        if options.lists and not {"train", "validation"} <= {*options.lists}:
            raise InputError(
                f"the protocol {self.name} needs --train-list FILE and --validation-list FILE, or "
                "none of them for a dataset with folders train, val and test"
            )


def _leakfree(candidates: Sequence[Candidate], options: PrepareOptions) -> Assignment:
    alike: dict[str, list[Candidate]] = {}
    for case in candidates:
        alike.setdefault(case.duplicates, []).append(case)
    excluded: dict[str, str] = {}
    for members in alike.values():
        if is_class_conflict([m.class_label for m in members], [m.patient for m in members]):
            listed = ", ".join(case.id for case in members)
            reason = f"class conflict among near-duplicates: {listed}"
            excluded |= {case.id: reason for case in members}
    return _draw([case for case in candidates if case.id not in excluded], options, excluded)


def _random(candidates: Sequence[Candidate], options: PrepareOptions) -> Assignment:
    first: dict[str, str] = {}
    kept: list[Candidate] = []
    excluded: dict[str, str] = {}
    for case in candidates:
        key = {"none": case.id, "exact": case.sha256, "phash": case.duplicates}[options.dedup]
        if first.setdefault(key, case.id) == case.id:
            kept.append(case)
        else:
            kind = "the same pixels as" if options.dedup == "exact" else "a near-duplicate of"
            excluded[case.id] = f"duplicate: {kind} {first[key]}, which is kept"
    return _draw(kept, options, excluded, grouped=False)


def _curated(candidates: Sequence[Candidate], options: PrepareOptions) -> Assignment:
    listed = set(read_id_list(options.ids or ""))
    kept = [case for case in candidates if case.id in listed]
    excluded = {case.id: "not in the id list" for case in candidates if case.id not in listed}
    return _draw(kept, options, excluded)


def _file(candidates: Sequence[Candidate], options: PrepareOptions) -> Assignment:
    split_of: dict[str, str] = {}
    for split, path in options.lists.items():
        for name in read_id_list(path):
            if name in split_of:
                raise InputError(
                    f"{path}: {name} stands in the {split_of[name]} list as well; an image can be "
                    "in one split only"
                )
            split_of[name] = split
    if not options.lists:
        split_of = {case.id: case.official_split for case in candidates if case.official_split}
    splits = {case.id: split_of[case.id] for case in candidates if case.id in split_of}
    excluded = {case.id: "in none of the lists" for case in candidates if case.id not in split_of}
    return Assignment(splits, {}, excluded)


def _external(candidates: Sequence[Candidate], options: PrepareOptions) -> Assignment:
    return Assignment({case.id: "test" for case in candidates})


def _official(candidates: Sequence[Candidate], options: PrepareOptions) -> Assignment:
    folds = {
        case.id: case.official_fold - 1 for case in candidates if case.official_fold is not None
    }
    excluded = {case.id: "in no official fold" for case in candidates if case.id not in folds}
    return Assignment(dict.fromkeys(folds, "train"), folds, excluded)


def _draw(
    kept: Sequence[Candidate],
    options: PrepareOptions,
    excluded: Mapping[str, str],
    *,
    grouped: bool = True,
) -> Assignment:
    """Draw folds or splits, with groups kept whole or not."""
    ids, labels = [case.id for case in kept], [case.class_label for case in kept]
    groups = [case.group for case in kept] if grouped else ids
    if options.folds:
        fold_of = group_folds(labels, groups, options.folds, options.seed).tolist()
        folds = dict(zip(ids, fold_of, strict=True))
        return Assignment(dict.fromkeys(ids, "train"), folds, excluded)
    ratios = Ratios.parse(options.ratios)
    splits = (
        split_groups(labels, groups, ratios, options.seed)
        if grouped
        else split_images(labels, ratios, options.seed)
    )
    return Assignment(dict(zip(ids, splits, strict=True)), {}, excluded)


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "leakfree",
            "Near-duplicates and patients stay together; near-duplicates of different classes are "
            "left out and listed, but for frames of one patient with and without the lesion; "
            "stratified by class.",
            _leakfree,
            True,
            ("ratios", "folds"),
        ),
        Protocol(
            "random",
            "Stratified random split as the field does it; leaks, for comparison only.",
            _random,
            False,
            ("ratios", "folds", "dedup"),
        ),
        Protocol(
            "curated",
            "Only the images of a given id list; grouped and stratified.",
            _curated,
            True,
            ("ratios", "folds", "ids"),
        ),
        Protocol(
            "file",
            "Train, validation and test as published: lists given as files, or folders train, "
            "val and test of the dataset.",
            _file,
            False,
            ("lists",),
        ),
        Protocol("external", "Everything in test: a set to evaluate on only.", _external, True, ()),
        Protocol(
            "official",
            "The folds that the dataset ships, as published: official fold 1 is fold 0.",
            _official,
            False,
            (),
        ),
    )
}
"""Protocols by name, the default first."""
