"""From a dataset as downloaded to a prepared folder: audited, divided by protocol, native size."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from busi_monai.cases import CLASSES, DATALIST_KEYS, Case, DatasetIssue
from busi_monai.curation.audit import Audit, audit_dataset
from busi_monai.curation.audit_report import write_audit
from busi_monai.curation.datalist import DATALIST_NAME, Datalist, find_split, load_datalist
from busi_monai.curation.id_lists import check_known, read_id_list, read_known_images
from busi_monai.curation.protocols import PROTOCOLS, PrepareOptions, candidates_of
from busi_monai.curation.splits import find_leaks
from busi_monai.curation.storage import MaskTreatment, PreparedStore, Stored
from busi_monai.datasets import READERS, Listing, opened_dataset
from busi_monai.errors import InputError
from busi_monai.files import file_sha256, lie_within_each_other, named
from busi_monai.io.archives import is_archive
from busi_monai.outputs import output_folder
from busi_monai.records import RunRecord

__all__ = ["PrepareSummary", "class_counts", "prepare_dataset"]

Progress = Callable[[Sequence[Case]], Iterable[Case]]
"""Passes cases on while showing how far it has come."""


@dataclass(frozen=True)
class PrepareSummary:
    """What ``prepare_dataset`` did.

    Attributes:
        out: the prepared folder.
        datalist: as written.
        failures: problems that cost images: the command exits with 1 if there are any.
        duplicate_groups: number of near-duplicate groups that the audit found.
        seconds: how long it took.
        unlisted: ids in the dataset that the replayed datalist does not name: left out.
        notes: what else the reader reports, such as ids with their folder, files that it left out
            and images that nothing labels. Lesions without a mask stand in the datalist.
        left_out: number of members of an archive that were not looked at, by kind.
        other_masks: ids whose masks are others than the replayed datalist tells.
    """

    out: Path
    datalist: Datalist
    failures: Sequence[DatasetIssue]
    duplicate_groups: int
    seconds: float = 0.0
    unlisted: Sequence[str] = ()
    notes: Sequence[str] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    other_masks: Sequence[str] = ()

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images of each class by split, or by fold."""
        return class_counts(self.datalist)

    def excluded_by_reason(self) -> dict[str, list[str]]:
        """Return the ids that are in no split by the kind of reason."""
        kinds: dict[str, list[str]] = {}
        for entry in self.datalist.excluded:
            kinds.setdefault(entry["reason"].split(":")[0], []).append(entry["id"])
        return kinds

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "out": str(self.out),
            "name": self.datalist.name,
            "protocol": self.datalist.protocol,
            "seed": self.datalist.seed,
            "counts": self.counts,
            "excluded": [dict(entry) for entry in self.datalist.excluded],
            "unlisted": list(self.unlisted),
            "left_out": dict(self.left_out),
            "other_masks": list(self.other_masks),
            "leaks": dict(self.datalist.leaks),
            "duplicate_groups": self.duplicate_groups,
            "failures": [problem.as_dict() for problem in self.failures],
            "notes": list(self.notes),
            "datalist_sha256": self.datalist.sha256,
            "labels_sha256": self.datalist.labels_sha256,
            "seconds": round(self.seconds, 3),
        }


def class_counts(datalist: Datalist) -> dict[str, dict[str, int]]:
    """Return the number of images of each class by split, or by fold where there are folds."""
    rows: dict[str, Counter[str]] = {}
    for item in datalist.records():
        if "part_of" in item["meta"]:
            continue
        name = item["split"] if item["fold"] is None else f"fold {item['fold']}"
        rows.setdefault(name, Counter())[CLASSES[item["class_label"]]] += 1
    named = sorted(rows) if datalist.folds else [split for split in DATALIST_KEYS if split in rows]
    return {name: {kind: rows[name][kind] for kind in CLASSES} for name in named}


_SHOWN = 5  # notes of one kind, or ids
_COST_IMAGES = {
    "unknown_class", "duplicate_id", "mask_without_image", "missing_image", "annotation",
    "refused_member",
}  # fmt: skip


def prepare_dataset(
    source: str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    audit: Audit | None = None,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Audit a dataset, divide it by a protocol and write it as a prepared folder.

    The folder holds ``images/<id>.png`` (as found, native size), ``labels/<id>.png`` (union mask,
    0 and 255), ``datalist.json``, the audit with its figures, and ``run.json``. It is
    complete or absent; ``source`` is never written to. An image that cannot be used is left out
    with its reason, and listed in the summary's ``failures``.

    Args:
        source: the dataset's folder or archive.
        out: the folder to make.
        options: see ``PrepareOptions``.
        audit: of ``source``, from ``audit_dataset``, to prepare it several times and audit it once.
        progress: wraps the cases that are gone through, to show a bar.

    Raises:
        InputError: if an option, an id list, the published datalist or the audit does not fit the
            dataset, it ships no folds for ``official``, or ``out`` exists and may not be replaced.
            Nothing is left behind then.
    """
    started = time.monotonic()
    record = RunRecord()
    options = options or PrepareOptions()
    options.check()
    published = load_datalist(find_split(options.from_datalist)) if options.from_datalist else None
    if lie_within_each_other(Path(source), Path(out)):
        raise InputError(
            f"--out {out} and the dataset {source} lie within each other; choose a folder outside "
            "the dataset, so that the originals stay untouched"
        )
    treatment = MaskTreatment(options.multi_mask, options.missing_mask, options.mask_cleanup)
    if published is not None:
        treatment = MaskTreatment.from_options(published.options)
    with opened_dataset(source, options.layout) as listing:
        known = _check_fits(options, listing)
        if audit is not None and is_archive(Path(source)):
            raise InputError(f"{source}: an audit is passed on for folders only; leave it out")
        if audit is not None and audit.listing != listing:
            raise InputError(
                f"the audit of {audit.listing.root} is not one of what {listing.root} holds now; "
                "audit this folder again, under this path"
            )
        reads = [source, *options.files()]
        with output_folder(out, "prepare", reads=reads, overwrite=options.overwrite) as folder:
            if audit is None:
                audit = audit_dataset(listing, known=known, progress=progress)
            store = PreparedStore(folder, listing.root, treatment)
            for case in progress(listing.cases) if progress else listing.cases:
                if case.id in known:
                    store.excluded[case.id] = f"known: {known[case.id]}"
                else:
                    store.add(case)
            _check_unchanged(audit, store.stored)
            if published is None:
                datalist = _divide(store, listing, audit.duplicates.groups, options)
            else:
                _check_same_dataset(published, store, listing)
                datalist = published
            datalist = datalist.with_label_hashes(store.label_hashes)
            store.keep_only(datalist.files())
            datalist.save(folder / DATALIST_NAME)
            write_audit(audit, folder)
            summary = PrepareSummary(
                Path(out),
                datalist,
                failures=[*store.failures, *_lost_images(listing)],
                duplicate_groups=len(audit.duplicates.groups),
                unlisted=_unlisted(datalist, listing),
                notes=_notes(listing),
                left_out=listing.left_out,
                other_masks=[] if published is None else _other_masks(published, datalist),
            )
            for failure in summary.failures:
                record.fail(failure.file, failure.message)
            record.write(folder, _run_details(summary, listing, folder))
    return replace(summary, seconds=time.monotonic() - started)


def _notes(listing: Listing) -> list[str]:
    """Return what to know of the dataset although no file is at fault; of many files some alone."""
    kinds: dict[str, list[DatasetIssue]] = {}
    for problem in listing.problems:
        if problem.kind not in {*_COST_IMAGES, "missing_mask"}:
            kinds.setdefault(problem.kind, []).append(problem)
    notes = []
    for kind, problems in kinds.items():
        notes += [
            p.message if p.file == "." else f"{p.file}: {p.message}" for p in problems[:_SHOWN]
        ]
        if len(problems) > _SHOWN:
            notes.append(f"{kind}: {len(problems) - _SHOWN} more files, all of them in audit.json")
    return notes


def _lost_images(listing: Listing) -> list[DatasetIssue]:
    return [problem for problem in listing.problems if problem.kind in _COST_IMAGES]


def _check_fits(options: PrepareOptions, listing: Listing) -> dict[str, str]:
    """Refuse lists and protocols that do not fit before anything is audited; return ``known``."""
    ids = [case.id for case in listing.cases]
    for path in [*([options.ids] if options.ids else []), *options.lists.values()]:
        check_known(read_id_list(path), ids, path)
    told = {key for case in listing.cases for key in case.meta}
    if options.protocol == "official" and "official_fold" not in told:
        ship = [f"{r.name} ({r.folds_table})" for r in READERS.values() if r.folds_table]
        raise InputError(
            f"{listing.root} ({listing.dataset}) has no folds of its authors, which the protocol "
            f"official takes; these datasets ship some: {', '.join(ship)}. Draw folds with "
            "--protocol leakfree --folds 5"
        )
    if options.protocol == "file" and not options.lists and "official_split" not in told:
        raise InputError(
            f"{listing.root}: the protocol file needs --train-list FILE and --validation-list "
            "FILE, or folders train, val and test in the dataset"
        )
    return read_known_images(options.known, ids) if options.known else {}


def _check_unchanged(audit: Audit, stored: Mapping[str, Stored]) -> None:
    """Refuse images of other pixels than the audit saw."""
    seen = {e.case.id: e.fingerprint.sha256 for e in audit.examinations if e.fingerprint}
    changed = [name for name, one in stored.items() if seen.get(name) != one.sha256]
    if changed:
        raise InputError(
            f"{audit.listing.root}: pixels have changed since the audit, of {len(changed)} in all: "
            f"{', '.join(changed[:_SHOWN])}{', …' if len(changed) > _SHOWN else ''}; audit the "
            "dataset again"
        )


def _check_same_dataset(datalist: Datalist, store: PreparedStore, listing: Listing) -> None:
    """Refuse a copy of the dataset that does not hold every image of a datalist, pixel for pixel.

    Single masks that the datalist names are added to the store.
    """
    missing, different, otherwise = [], [], []
    for item in datalist.records():
        whole = item["meta"].get("part_of", item["id"])
        stored = store.stored.get(whole)
        if stored is None:
            missing.append(whole)
        elif stored.sha256 != item["sha256"]:
            different.append(whole)
        elif stored.case.class_label != item["class_label"]:
            otherwise.append(whole)
        elif "part_of" in item["meta"]:
            store.add_single_masks(whole)
    found = {
        "images that are missing or unusable here": missing,
        "images with other pixels": different,
        "images of another class": otherwise,
    }
    if not any(found.values()):
        found["files that could not be made, such as the label of an empty mask"] = [
            path for path in datalist.files() if not (store.folder / path).is_file()
        ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
        for what, names in found.items()
        if names
    ]
    if faults:
        raise InputError(
            f"{listing.root} is not the dataset of the datalist, which has {'; '.join(faults)}; "
            "get the original files"
        )


def _other_masks(published: Datalist, repeated: Datalist) -> list[str]:
    """Return the ids whose masks here are others than the repeated datalist tells."""
    now = {item["id"]: item["label_sha256"] for item in repeated.records()}
    return [
        item["id"]
        for item in published.records()
        if item.get("label_sha256", now[item["id"]]) != now[item["id"]]
    ]


def _unlisted(datalist: Datalist, listing: Listing) -> list[str]:
    """Return the ids of a dataset that a datalist neither divides nor excludes."""
    listed = {item["id"] for item in (*datalist.records(), *datalist.excluded)}
    return [case.id for case in listing.cases if case.id not in listed]


def _divide(
    store: PreparedStore,
    listing: Listing,
    duplicates: Sequence[Sequence[str]],
    options: PrepareOptions,
) -> Datalist:
    """Assign every stored case to a split by the protocol."""
    candidates = candidates_of(store.stored, duplicates)
    protocol = PROTOCOLS[options.protocol]
    try:
        assignment = protocol.assign(candidates, options)
    except InputError as error:
        lost = [f"{p.kind}: {p.file}: {p.message}" for p in _lost_images(listing)]
        left_out = [*store.excluded.values(), *lost]
        if not left_out:
            raise
        kinds = Counter(reason.split(":")[0] for reason in left_out)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise InputError(f"{error}. Left out before: {counts}; the first, {left_out[0]}") from error
    reasons = {**store.excluded, **assignment.excluded}
    if not assignment.splits:
        raise InputError(
            f"{listing.root}: the protocol {protocol.name} leaves no image: "
            f"{'; '.join(sorted(set(reasons.values()))[:3])}"
        )
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in DATALIST_KEYS}
    for candidate in candidates:
        split = assignment.splits.get(candidate.id)
        if split is None:
            continue
        fold = assignment.folds.get(candidate.id)
        item = store.stored[candidate.id].as_item(candidate.group, fold)
        splits[split].append(item)
        if split == "train" and store.treatment.multi_mask == "split":
            single = {**item["meta"], "part_of": item["id"]}
            splits[split] += [
                {**item, "id": name, "label": label, "meta": single}
                for name, label in store.add_single_masks(item["id"]).items()
            ]
    leaks = find_leaks(assignment.splits, assignment.folds, duplicates).as_dict()
    if protocol.name == "official":
        folds_of: dict[str, set[int]] = {}
        for case in candidates:
            if case.patient is not None and case.id in assignment.folds:
                folds_of.setdefault(case.patient, set()).add(assignment.folds[case.id])
        leaks["patients"] = sorted(name for name, folds in folds_of.items() if len(folds) > 1)
    chosen: dict[str, Any] = {}
    if options.folds:
        chosen["folds"] = options.folds
    elif "ratios" in protocol.options:
        chosen["ratios"] = options.ratios
    if "dedup" in protocol.options:
        chosen["dedup"] = options.dedup
    return Datalist(
        protocol=protocol.name,
        seed=options.seed,
        excluded=[
            {"id": case.id, "reason": reasons[case.id]}
            for case in listing.cases
            if case.id in reasons
        ],
        leaks=leaks,
        options={**chosen, **asdict(store.treatment)},
        training=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
    )


def _run_details(summary: PrepareSummary, listing: Listing, folder: Path) -> dict[str, Any]:
    datalist = summary.datalist
    return {
        "dataset": listing.dataset,
        "root": named(listing.root),
        "left_out": dict(listing.left_out),
        "name": datalist.name,
        "protocol": datalist.protocol,
        "seed": datalist.seed,
        "datalist_sha256": datalist.sha256,
        "labels_sha256": datalist.labels_sha256,
        "counts": summary.counts,
        "excluded": len(datalist.excluded),
        "leaks": datalist.leaks["count"],
        "files": {name: file_sha256(folder / name) for name in datalist.files()},
        "unlisted": summary.unlisted,
        "other_masks": summary.other_masks,
        "notes": summary.notes,
    }
