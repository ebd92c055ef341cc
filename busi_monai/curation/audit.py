"""The audit of a dataset: files, near-duplicates, class conflicts, masks, artefacts, statistics.

Nothing is changed or removed by it; ``prepare`` acts on what it finds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from busi_monai.cases import CLASSES, Case, DatasetIssue
from busi_monai.curation.artefacts import ARTEFACT_KINDS
from busi_monai.curation.audit_outputs import write_audit
from busi_monai.curation.examination import Examination, examine_case
from busi_monai.curation.mask_agreement import aligned_mask_iou
from busi_monai.curation.near_duplicates import NearDuplicates, Pair, group_fingerprints
from busi_monai.curation.splits import is_class_conflict
from busi_monai.datasets.listing import Listing
from busi_monai.path_names import named

__all__ = ["DISAGREEING_IOU", "FAILURES", "Audit", "audit_dataset", "write_audit"]

FAILURES = frozenset(
    {"unreadable", "size_mismatch", "mask_values", "inverted_mask", "annotation", "refused_member"}
)
"""Kinds of problem that keep a file, or an entry of an annotation file, from being used."""

DISAGREEING_IOU = 0.7
"""Masks of one image below this IoU disagree: two observers of a breast lesion seldom do so much,
and a shift of a few pixels between copies costs less."""

_SAME_IMAGE = 0.6  # correlation; below, the pair may be two frames with two rightful outlines
_WORKERS = 2

_log = logging.getLogger(__name__)

Progress = Callable[[Sequence[Case]], Iterable[Case]]


@dataclass(frozen=True)
class Audit:
    """What was found in a dataset.

    Attributes:
        listing: the cases, and what is wrong with names and tables.
        examinations: one for each case, in the listing's order.
        duplicates: near-duplicate groups among the readable images.
        mask_ious: IoU of the aligned masks by pair of near-duplicates, where both have one.
        known: what was known of images beforehand, as (id, reason), in the listing's order.
    """

    listing: Listing
    examinations: list[Examination]
    duplicates: NearDuplicates
    mask_ious: dict[tuple[str, str], float]
    known: tuple[tuple[str, str], ...] = ()

    @property
    def problems(self) -> list[DatasetIssue]:
        """All problems: of the listing first, then case by case."""
        return [*self.listing.problems, *(p for e in self.examinations for p in e.problems)]

    @property
    def failures(self) -> list[DatasetIssue]:
        """Problems that keep a file from being used."""
        return [problem for problem in self.problems if problem.kind in FAILURES]

    @property
    def class_conflicts(self) -> list[list[str]]:
        """Near-duplicate groups whose members carry classes of which one must be wrong."""
        labels = {case.id: case.class_label for case in self.listing.cases}
        patients = {case.id: case.group for case in self.listing.cases}
        return [
            group
            for group in self.duplicates.groups
            if is_class_conflict([labels[i] for i in group], [patients[i] for i in group])
        ]

    @property
    def patient_conflicts(self) -> list[list[str]]:
        """Near-duplicate groups that join different patients, where the dataset tells patients."""
        patients = {case.id: case.group for case in self.listing.cases}
        return [g for g in self.duplicates.groups if len({patients[i] for i in g} - {None}) > 1]

    @property
    def multi_mask(self) -> list[str]:
        """Ids of the cases with more than one mask file."""
        return [case.id for case in self.listing.cases if len(case.masks) > 1]

    @property
    def artefacts(self) -> dict[str, list[str]]:
        """Ids by kind of artefact."""
        return {
            kind: [e.case.id for e in self.examinations if kind in e.artefacts]
            for kind in ARTEFACT_KINDS
        }

    @property
    def artefact_classes(self) -> dict[str, dict[str, int]]:
        """Number of images of each class by kind of artefact.

        What one class carries more often than another, a network can take for the class itself.
        """
        classes = {case.id: case.class_name for case in self.listing.cases}
        counts = {kind: Counter(classes[id] for id in ids) for kind, ids in self.artefacts.items()}
        return {
            kind: {name: count[name] for name in self.listing.class_counts}
            for kind, count in counts.items()
        }

    @property
    def disagreeing_masks(self) -> list[Pair]:
        """Pairs that show one image with different outlines."""
        return [
            pair
            for pair in self.duplicates.pairs
            if pair.correlation >= _SAME_IMAGE
            and self.mask_ious.get((pair.a, pair.b), 1.0) < DISAGREEING_IOU
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return ``audit.json`` as plain values."""
        ious = {pair: round(iou, 4) for pair, iou in self.mask_ious.items()}
        return {
            "dataset": self.listing.dataset,
            "root": named(self.listing.root),
            "images": len(self.listing.cases),
            "masks": self.listing.mask_count,
            "classes": self.listing.class_counts,
            "multi_mask": self.multi_mask,
            "duplicate_groups": self.duplicates.groups,
            "class_conflicts": self.class_conflicts,
            "artefacts": self.artefacts,
            "artefact_classes": self.artefact_classes,
            "known": [{"id": id, "reason": reason} for id, reason in self.known],
            "problems": [problem.as_dict() for problem in self.problems],
            "patient_conflicts": self.patient_conflicts,
            "exact_duplicates": self.duplicates.exact,
            "duplicate_pairs": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "hash_distance": pair.distance,
                    "correlation": pair.correlation,
                    "mask_iou": ious.get((pair.a, pair.b)),
                }
                for pair in self.duplicates.pairs
            ],
            "disagreeing_masks": [
                {"a": pair.a, "b": pair.b, "iou": ious[pair.a, pair.b]}
                for pair in self.disagreeing_masks
            ],
            "statistics": _statistics(self.examinations),
        }


def audit_dataset(
    listing: Listing, *, known: Mapping[str, str] | None = None, progress: Progress | None = None
) -> Audit:
    """Look at every file of a dataset. A damaged one is reported and does not stop it.

    Args:
        listing: from ``read_dataset``.
        known: what is known of images beforehand, a reason by id, see ``read_known_images``; it is
            reported, and changes nothing else.
        progress: wraps the cases that are gone through, to show a bar.
    """
    cases = listing.cases
    examinations: list[Examination] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        results = pool.map(lambda case: examine_case(case, listing.root), cases)
        try:
            for _ in progress(cases) if progress else cases:
                examinations.append(next(results))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    prints = {e.case.id: e.fingerprint for e in examinations if e.fingerprint is not None}
    duplicates = group_fingerprints(prints)
    reasons = known or {}
    audit = Audit(
        listing,
        examinations,
        duplicates,
        _mask_ious(examinations, duplicates),
        tuple((case.id, reasons[case.id]) for case in cases if case.id in reasons),
    )
    _log.info("%d images, %d problems", len(cases), len(audit.problems))
    return audit


def _mask_ious(
    examinations: Sequence[Examination], duplicates: NearDuplicates
) -> dict[tuple[str, str], float]:
    by_id = {e.case.id: e for e in examinations}
    ious: dict[tuple[str, str], float] = {}
    for pair in duplicates.pairs:
        a, b = by_id[pair.a], by_id[pair.b]
        if a.lesion_pixels is None or b.lesion_pixels is None:
            continue
        if a.fingerprint is None or b.fingerprint is None or a.lesion is None or b.lesion is None:
            continue
        iou = aligned_mask_iou(a.fingerprint, a.lesion, b.fingerprint, b.lesion)
        if iou is not None:
            ious[pair.a, pair.b] = iou
    return ious


def _statistics(examinations: Sequence[Examination]) -> dict[str, Any]:
    prints = [e.fingerprint for e in examinations if e.fingerprint is not None]
    measured = [
        e for e in examinations if e.lesion_pixels is not None and e.fingerprint is not None
    ]
    lesion = sum(e.lesion_pixels or 0 for e in measured)
    everything = sum(
        e.fingerprint.shape[0] * e.fingerprint.shape[1]
        for e in measured
        if e.fingerprint is not None
    )
    masks = Counter(len(e.case.masks) for e in examinations)
    return {
        "width_px": _summary(p.shape[1] for p in prints),
        "height_px": _summary(p.shape[0] for p in prints),
        "lesion_fraction": {
            name: _summary(
                e.lesion_fraction
                for e in measured
                if e.case.class_name == name and e.lesion_fraction is not None
            )
            for name in CLASSES[1:]
        },
        "pixels": {"lesion": lesion, "background": everything - lesion},
        "masks_per_image": {str(count): masks[count] for count in sorted(masks)},
        "brightness": {
            name: _summary(
                e.brightness
                for e in examinations
                if e.case.class_name == name and e.brightness is not None
            )
            for name in CLASSES
        },
    }


def _summary(values: Iterable[float]) -> dict[str, float | int | None]:
    """Return the number, the mean and the five-number summary; ``None`` where there is nothing."""
    numbers = np.fromiter(values, dtype=np.float64)
    names = ("min", "q1", "median", "q3", "max")
    if not len(numbers):
        return {"n": 0, "mean": None, **dict.fromkeys(names)}
    quartiles = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1])
    return {
        "n": len(numbers),
        "mean": round(float(numbers.mean()), 6),
        **{name: round(float(q), 6) for name, q in zip(names, quartiles, strict=True)},
    }
