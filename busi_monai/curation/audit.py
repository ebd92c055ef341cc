"""The audit of a dataset: files, near-duplicates, class conflicts, masks, artefacts, statistics.

Nothing is changed or removed by it; ``prepare`` acts on what it finds.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import CLASSES, Case, DatasetIssue
from busi_monai.curation.near_duplicates import (
    Fingerprint,
    NearDuplicates,
    Pair,
    fingerprint,
    group_fingerprints,
)
from busi_monai.curation.registration import aligned_mask_iou
from busi_monai.curation.splits import is_class_conflict
from busi_monai.datasets.listing import Listing
from busi_monai.datasets.masks import case_mask
from busi_monai.errors import ImageReadError
from busi_monai.files import named
from busi_monai.imaging.ink import count_crosses, ink_mask, text_lines
from busi_monai.io.grey_ranges import GREY_DEPTH, GREY_UNKNOWN
from busi_monai.io.images import LoadedImage, read_image, read_mask
from busi_monai.outlines import Outline, mask_file
from busi_monai.threads import computing_threads, in_order

__all__ = [
    "ARTEFACT_KINDS",
    "FAILURES",
    "Audit",
    "Examination",
    "audit_dataset",
    "examine_case",
    "find_artefacts",
]

ARTEFACT_KINDS = {
    "colour": "real colour pixels: Doppler, coloured calipers or frames",
    "text": "burned-in text of three letters or more",
    "markers": "caliper crosses",
    "grey_depth": "values that use less of their range than the file states, read as fewer bits",
    "low_contrast": "hardly any contrast: nearly all pixels are of nearly one grey",
}
"""Kinds of artefact with what each means."""

_GUESSED = {GREY_DEPTH, GREY_UNKNOWN}
_LEAST_CONTRAST = 0.1  # between the darkest and the brightest 1 %; four real sets have 0.28 or more
FAILURES = frozenset(
    {"unreadable", "size_mismatch", "mask_values", "inverted_mask", "annotation", "refused_member"}
)
"""Kinds of problem that keep a file, or an entry of an annotation file, from being used."""

# two observers of a breast lesion seldom disagree so much; a shift of a few pixels costs less
_DISAGREEING_IOU = 0.7
_SAME_IMAGE = 0.6  # correlation; below, the pair may be two frames with two rightful outlines
_log = logging.getLogger(__name__)
Progress = Callable[[Sequence[Case]], Iterable[Case]]


@dataclass(frozen=True)
class Examination:
    """One case as its pixels show it; what needs the image is ``None`` where it cannot be read.

    ``lesion`` is the (h, w) union mask on the fingerprint's thumbnail. ``lesion_pixels`` are those
    at native size, ``None`` where a mask is missing or cannot be used. ``brightness`` is the mean
    grey value in [0, 1].
    """

    case: Case
    problems: list[DatasetIssue] = field(default_factory=list)
    fingerprint: Fingerprint | None = None
    lesion: NDArray[np.bool_] | None = None
    lesion_pixels: int | None = None
    brightness: float | None = None
    artefacts: list[str] = field(default_factory=list)

    @property
    def lesion_fraction(self) -> float | None:
        """Share of the image's pixels that the lesion takes, in [0, 1]."""
        if self.fingerprint is None or self.lesion_pixels is None:
            return None
        return self.lesion_pixels / math.prod(self.fingerprint.shape)


def examine_case(case: Case, root: Path) -> Examination:
    """Read a case's files and return what they show; a damaged file becomes a problem."""
    problems: list[DatasetIssue] = []
    try:
        loaded = read_image(case.image)
    except (ImageReadError, OSError) as error:
        problems.append(_problem(case, case.image, root, "unreadable", str(error)))
        for path in case.masks:
            _read(case, path, None, root, problems)
        return Examination(case, problems)
    seen = fingerprint(loaded.pixels, loaded.sha256)
    union = np.zeros(seen.shape, dtype=bool)
    for path in case.masks:
        mask = _read(case, path, seen.shape, root, problems)
        if mask is not None:
            union |= mask
    usable = not problems and not case.lacks_mask
    lesion_pixels = int(np.count_nonzero(union))
    if usable:
        problems += _contradictions(case, lesion_pixels, root)
    small = seen.thumbnail.shape
    lesion = cv2.resize(union.astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    return Examination(
        case=case,
        problems=problems,
        fingerprint=seen,
        lesion=lesion,
        lesion_pixels=lesion_pixels if usable else None,
        brightness=float(loaded.pixels.mean()),
        artefacts=find_artefacts(loaded),
    )


def _read(
    case: Case,
    path: Path | Outline,
    size: tuple[int, int] | None,
    root: Path,
    problems: list[DatasetIssue],
) -> NDArray[np.bool_] | None:
    """Return a mask that can be used; without the image's size, it is only read."""
    try:
        if size is not None:
            return case_mask(case, path, size)
        return None if isinstance(path, Outline) else read_mask(path)
    except (ImageReadError, OSError) as error:
        kind = error.kind if isinstance(error, ImageReadError) else "unreadable"
        problems.append(_problem(case, path, root, kind, str(error)))
        return None


def _contradictions(case: Case, lesion_pixels: int, root: Path) -> list[DatasetIssue]:
    """Compare what the class says with what the mask holds."""
    if case.has_lesion and lesion_pixels == 0:
        message = f"expected an outlined {case.class_name} lesion, found an empty mask"
        return [_problem(case, case.masks[0], root, "empty_mask", message)]
    if not case.has_lesion and lesion_pixels > 0:
        message = f"expected an empty mask of a normal image, found {lesion_pixels} lesion pixels"
        return [_problem(case, case.masks[0], root, "normal_with_mask", message)]
    return []


def _problem(case: Case, path: Path | Outline, root: Path, kind: str, message: str) -> DatasetIssue:
    file = mask_file(path)
    shown = file.relative_to(root) if file.is_relative_to(root) else file
    return DatasetIssue(case.id, shown.as_posix(), kind, named(message.removeprefix(f"{file}: ")))


def find_artefacts(image: LoadedImage) -> list[str]:
    """Return the kinds of artefact in an image, in the order of ``ARTEFACT_KINDS``."""
    ink = ink_mask(image.pixels)
    dark, bright = np.percentile(image.pixels, (1, 99))
    present = {
        "colour": image.has_colour,
        "text": bool(text_lines(image.pixels, ink)),
        "markers": count_crosses(ink) > 0,
        "grey_depth": any(warning.code in _GUESSED for warning in image.warnings),
        "low_contrast": float(dark) + _LEAST_CONTRAST > float(bright),
    }
    return [kind for kind in ARTEFACT_KINDS if present[kind]]


@dataclass(frozen=True)
class Audit:
    """What was found in a dataset.

    Attributes:
        listing: the cases, and what is wrong with names and tables.
        root: the dataset's folder, in an archive as a path below the archive.
        examinations: one for each case, in the listing's order.
        duplicates: near-duplicate groups among the readable images.
        mask_ious: IoU of the aligned masks by pair of near-duplicates, where both have one.
        known: what was known of images beforehand, as (id, reason), in the listing's order.
    """

    listing: Listing
    root: str
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
            and self.mask_ious.get((pair.a, pair.b), 1.0) < _DISAGREEING_IOU
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return ``audit.json`` as plain values."""
        ious = {pair: round(iou, 4) for pair, iou in self.mask_ious.items()}
        return {
            "dataset": self.listing.dataset,
            "root": self.root,
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
    threads = computing_threads()
    results = in_order(lambda case: examine_case(case, listing.root), cases, threads)
    for _ in progress(cases) if progress else cases:
        examinations.append(next(results))
    prints = {e.case.id: e.fingerprint for e in examinations if e.fingerprint is not None}
    duplicates = group_fingerprints(prints)
    reasons = known or {}
    audit = Audit(
        listing,
        named(listing.root),
        examinations,
        duplicates,
        _mask_ious(examinations, duplicates),
        tuple((case.id, reasons[case.id]) for case in cases if case.id in reasons),
    )
    _log.info("%d images, %d problems", len(cases), len(audit.problems))
    return audit


def values_by_class(
    examinations: Sequence[Examination], value: Callable[[Examination], Any]
) -> dict[str, list[Any]]:
    """Return what some examinations state, by class in the order of ``CLASSES``."""
    return {
        name: [
            found
            for e in examinations
            if e.case.class_name == name and (found := value(e)) is not None
        ]
        for name in CLASSES
    }


def _mask_ious(
    examinations: Sequence[Examination], duplicates: NearDuplicates
) -> dict[tuple[str, str], float]:
    masks = {
        e.case.id: (e.fingerprint, e.lesion)
        for e in examinations
        if e.lesion_pixels is not None and e.fingerprint is not None and e.lesion is not None
    }
    pairs = [(p.a, p.b) for p in duplicates.pairs if p.a in masks and p.b in masks]
    ious = in_order(
        lambda pair: aligned_mask_iou(*masks[pair[0]], *masks[pair[1]]), pairs, computing_threads()
    )
    return {pair: iou for pair, iou in zip(pairs, ious, strict=True) if iou is not None}


def _statistics(examinations: Sequence[Examination]) -> dict[str, Any]:
    sizes = [e.fingerprint.shape for e in examinations if e.fingerprint is not None]
    lesion, background = 0, 0
    for e in examinations:
        if e.lesion_pixels is not None and e.fingerprint is not None:
            lesion += e.lesion_pixels
            background += math.prod(e.fingerprint.shape) - e.lesion_pixels
    masks = Counter(len(e.case.masks) for e in examinations)
    fractions = values_by_class(examinations, lambda e: e.lesion_fraction)
    brightness = values_by_class(examinations, lambda e: e.brightness)
    return {
        "width_px": _summary(width for _, width in sizes),
        "height_px": _summary(height for height, _ in sizes),
        "lesion_fraction": {name: _summary(fractions[name]) for name in CLASSES[1:]},
        "pixels": {"lesion": lesion, "background": background},
        "masks_per_image": {str(count): masks[count] for count in sorted(masks)},
        "brightness": {name: _summary(values) for name, values in brightness.items()},
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
