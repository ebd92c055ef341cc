"""The protocols: how images become training, validation and test.

``PROTOCOLS`` is the one registry; the command line, ``busi-monai info``, docs and tests read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from busi_monai.curation.id_lists import check_known, read_id_list
from busi_monai.curation.splits import (
    PARTS,
    Ratios,
    group_folds,
    is_class_conflict,
    split_groups,
    split_images,
)
from busi_monai.errors import InputError

__all__ = ["DEDUP", "PROTOCOLS", "Assignment", "Candidate", "Protocol", "SplitOptions"]

DEDUP: tuple[str, ...] = ("none", "exact", "phash")
"""What the protocol ``random`` drops: nothing, equal pixels, near-duplicates."""


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
        official_part: its part in the dataset's own split, ``None`` where it has none.
    """

    id: str
    class_label: int
    sha256: str
    duplicates: str
    group: str
    patient: str | None = None
    official_fold: int | None = None
    official_part: str | None = None


@dataclass(frozen=True)
class SplitOptions:
    """What the user asks of a protocol.

    Attributes:
        ratios: shares of the three parts, where there are no folds.
        folds: number of cross-validation folds, or 0.
        seed: of every random draw.
        dedup: one of ``DEDUP``, for ``random``.
        ids: file of the ids to keep, for ``curated``.
        lists: files of ids by part name, for ``file``.
    """

    ratios: Ratios = field(default_factory=Ratios)
    folds: int = 0
    seed: int = 0
    dedup: str = "none"
    ids: Path | None = None
    lists: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Assignment:
    """Where every image goes.

    Attributes:
        parts: ``{id: part}`` with the names of ``PARTS``.
        folds: ``{id: fold}`` of the training part, empty without folds.
        excluded: ``{id: reason}`` of the images that the protocol leaves out.
    """

    parts: Mapping[str, str]
    folds: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """One way to divide a dataset.

    Attributes:
        name: as given to ``--protocol``.
        description: one sentence.
        assign: the function; takes the usable cases, the ids of the whole dataset, the options.
        leak_free: whether a near-duplicate across parts is an error.
        options: which of ``ratios, folds, dedup, ids, lists`` it understands.
    """

    name: str
    description: str
    assign: Callable[[Sequence[Candidate], Sequence[str], SplitOptions], Assignment]
    leak_free: bool
    options: tuple[str, ...]

    def check_options(self, options: SplitOptions) -> None:
        """Refuse options that this protocol would silently ignore, and ask for those it needs.

        Raises:
            InputError: naming the option, and the protocols that take it.
        """
        given = {
            "folds": (bool(options.folds), "--folds"),
            "dedup": (options.dedup != "none", "--dedup"),
            "ids": (options.ids is not None, "--ids"),
            "lists": (bool(options.lists), "--train-list, --val-list and --test-list"),
        }
        for name, (used, flag) in given.items():
            if used and name not in self.options:
                others = ", ".join(p.name for p in PROTOCOLS.values() if name in p.options)
                raise InputError(f"{flag}: not for the protocol {self.name}, only for {others}")
        if "ids" in self.options and options.ids is None:
            raise InputError(f"the protocol {self.name} needs --ids FILE, the ids to keep")
        if options.lists and not {*PARTS[:2]} <= {*options.lists}:
            raise InputError(
                f"the protocol {self.name} needs --train-list FILE and --val-list FILE, or none of "
                "them for a dataset with folders train, val and test"
            )


def _leakfree(
    candidates: Sequence[Candidate], known: Sequence[str], options: SplitOptions
) -> Assignment:
    alike: dict[str, list[Candidate]] = {}
    for case in candidates:
        alike.setdefault(case.duplicates, []).append(case)
    excluded: dict[str, str] = {}
    for members in alike.values():
        if is_class_conflict([m.class_label for m in members], [m.patient for m in members]):
            listed = ", ".join(case.id for case in members)
            excluded.update(
                {case.id: f"class conflict among near-duplicates: {listed}" for case in members}
            )
    kept = [case for case in candidates if case.id not in excluded]
    return _draw(kept, options, excluded)


def _random(
    candidates: Sequence[Candidate], known: Sequence[str], options: SplitOptions
) -> Assignment:
    if options.dedup not in DEDUP:
        raise InputError(f"--dedup {options.dedup!r}: expected one of {', '.join(DEDUP)}")
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
    if options.folds:
        alone = [case.id for case in kept]
        return _folded(kept, alone, options, excluded)
    parts = split_images([case.class_label for case in kept], options.ratios, options.seed)
    return Assignment(_by_id(kept, parts), {}, excluded)


def _curated(
    candidates: Sequence[Candidate], known: Sequence[str], options: SplitOptions
) -> Assignment:
    PROTOCOLS["curated"].check_options(options)
    wanted = read_id_list(options.ids or "")
    check_known(wanted, known, options.ids or "")
    listed = set(wanted)
    kept = [case for case in candidates if case.id in listed]
    excluded = {case.id: "not in the id list" for case in candidates if case.id not in listed}
    return _draw(kept, options, excluded)


def _file(
    candidates: Sequence[Candidate], known: Sequence[str], options: SplitOptions
) -> Assignment:
    PROTOCOLS["file"].check_options(options)
    part_of = {case.id: case.official_part for case in candidates if case.official_part}
    if options.lists:
        part_of = {}
    for part in PARTS:
        if part not in options.lists:
            continue
        ids = read_id_list(options.lists[part])
        check_known(ids, known, options.lists[part])
        for name in ids:
            if name in part_of:
                raise InputError(
                    f"{options.lists[part]}: {name} stands in the {part_of[name]} list as well; "
                    "an image can be in one part only"
                )
            part_of[name] = part
    parts = {case.id: part_of[case.id] for case in candidates if case.id in part_of}
    excluded = {case.id: "in none of the lists" for case in candidates if case.id not in part_of}
    return Assignment(parts, {}, excluded)


def _external(
    candidates: Sequence[Candidate], known: Sequence[str], options: SplitOptions
) -> Assignment:
    return Assignment({case.id: "test" for case in candidates})


def _official(
    candidates: Sequence[Candidate], known: Sequence[str], options: SplitOptions
) -> Assignment:
    folds = {
        case.id: case.official_fold - 1 for case in candidates if case.official_fold is not None
    }
    excluded = {case.id: "in no official fold" for case in candidates if case.id not in folds}
    return Assignment(dict.fromkeys(folds, "training"), folds, excluded)


def _draw(
    kept: Sequence[Candidate], options: SplitOptions, excluded: Mapping[str, str]
) -> Assignment:
    """Draw folds or parts with groups kept whole."""
    groups = [case.group for case in kept]
    if options.folds:
        return _folded(kept, groups, options, excluded)
    labels = [case.class_label for case in kept]
    parts = split_groups(labels, groups, options.ratios, options.seed)
    return Assignment(_by_id(kept, parts), {}, excluded)


def _folded(
    kept: Sequence[Candidate],
    groups: Sequence[str],
    options: SplitOptions,
    excluded: Mapping[str, str],
) -> Assignment:
    labels = [case.class_label for case in kept]
    fold_of = group_folds(labels, groups, options.folds, options.seed)
    folds = {case.id: int(fold) for case, fold in zip(kept, fold_of, strict=True)}
    return Assignment({case.id: "training" for case in kept}, folds, excluded)


def _by_id(kept: Sequence[Candidate], parts: Sequence[str]) -> dict[str, str]:
    return {case.id: part for case, part in zip(kept, parts, strict=True)}


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
            "Training, validation and test as published: lists given as files, or folders train, "
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
