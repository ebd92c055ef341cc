"""From a dataset to a folder to train on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busi_monai.curation import Audit, PrepareSummary, SharedImages, VerifyReport

__all__ = ["Verification", "audit", "list_datasets", "prepare", "verify"]

Progress = Callable[[Sequence[Any]], Iterable[Any]]
"""Passes items on while showing how far it has come."""


def list_datasets() -> list[str]:
    """Return the names of the dataset layouts that can be read.

    Examples:
        >>> list_datasets()
        ['busi', 'bus_bra', 'bus_uclm', 'breast_lesions_usg', 'folder']
    """
    from busi_monai.datasets import READERS

    return list(READERS)


def audit(
    dataset: str | Path,
    *,
    out: str | Path | None = None,
    layout: str = "auto",
    known: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Check a dataset: files, near-duplicates, class conflicts, masks, artefacts, statistics.

    The dataset is never changed. A file that cannot be used is listed in ``Audit.failures``.

    Args:
        dataset: folder or archive (zip, tar).
        out: folder to make, with ``audit.json``, ``cases.csv``, figures and ``run.json``.
        layout: one of ``list_datasets()``, or ``auto``.
        known: CSV of id and reason, of images to be reported as well.
        overwrite: replace an earlier audit in ``out``.
        progress: wraps the cases, to show a bar.

    Raises:
        InputError: if the dataset is missing or of no known layout, ``known`` does not fit it, or
            ``out`` is refused.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from busi_monai.phantoms import write_phantom_dataset
        >>> with TemporaryDirectory() as folder:
        ...     dataset = write_phantom_dataset(folder + "/data", cases=3, size=(64, 80))
        ...     audit(dataset).as_dict()["classes"]
        {'normal': 1, 'benign': 1, 'malignant': 1}
    """
    from busi_monai.curation import audit_dataset, read_known_images, write_audit
    from busi_monai.datasets import opened_dataset
    from busi_monai.outputs import output_folder
    from busi_monai.records import RunRecord

    record = RunRecord()
    with contextlib.ExitStack() as stack:
        listing = stack.enter_context(opened_dataset(dataset, layout))
        reasons = read_known_images(known, [case.id for case in listing.cases]) if known else {}
        if out is None:
            return audit_dataset(listing, known=reasons, progress=progress)
        reads = [dataset, listing.root, *([known] if known else [])]
        folder = stack.enter_context(output_folder(out, "audit", reads=reads, overwrite=overwrite))
        found = audit_dataset(listing, known=reasons, progress=progress)
        write_audit(found, folder)
        for problem in found.failures:
            record.fail(problem.file, problem.message)
        details = {
            "dataset": listing.dataset,
            "root": found.root,
            "left_out": dict(listing.left_out),
            "counts": {"images": len(listing.cases), "problems": len(found.problems)},
        }
        record.write(folder, details)
    return found


def prepare(
    dataset: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    protocol: str = "leakfree",
    dedup: str = "none",
    ids: Path | None = None,
    known: Path | None = None,
    train_list: Path | None = None,
    validation_list: Path | None = None,
    test_list: Path | None = None,
    from_datalist: str | Path | None = None,
    ratios: str = "80/10/10",
    folds: int = 0,
    seed: int = 0,
    multi_mask: str = "union",
    missing_mask: str = "exclude",
    mask_cleanup: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Turn a dataset into a folder to train and evaluate on.

    The folder holds ``images/<id>.png`` (as found), ``labels/<id>.png`` (the union of the masks,
    (H, W) uint8, 0 and 255), ``datalist.json`` (which image is in which split), the audit and
    ``run.json``. The dataset is never changed. An image that cannot be used is left out and listed.

    Args:
        dataset: folder or archive (zip, tar).
        out: folder to make.
        layout: one of ``list_datasets()``, or ``auto``.
        protocol: ``leakfree``, ``random``, ``curated``, ``file``, ``external`` or ``official``.
        dedup: for ``random``: drop nothing (``none``), equal pixels (``exact``) or near-duplicates
            (``phash``); the first is kept.
        ids: for ``curated``: file of the ids to keep, one a line or CSV.
        known: CSV of id and reason, of images to leave out.
        train_list: for ``file``: ids of the training images.
        validation_list: likewise, of the validation images.
        test_list: likewise, of the test images.
        from_datalist: name of a shipped split, or a ``datalist.json``, to repeat.
        ratios: train/validation/test in per cent.
        folds: number of folds for cross-validation, instead of ratios; 0 for none.
        seed: of every draw.
        multi_mask: ``split`` adds a training case for each mask of an image with several.
        missing_mask: ``exclude`` or ``classify-only``, for a lesion without a mask.
        mask_cleanup: smooth and fill masks, drop their specks.
        overwrite: replace what was prepared in ``out`` before.
        progress: wraps the cases, to show a bar.

    Raises:
        InputError: if an option or list does not fit the dataset, or ``out`` is refused; nothing is
            left behind then.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from busi_monai.phantoms import write_phantom_dataset
        >>> with TemporaryDirectory() as folder:
        ...     dataset = write_phantom_dataset(folder + "/data", cases=12, size=(64, 80))
        ...     summary = prepare(dataset, folder + "/prepared", ratios="50/25/25")
        ...     report = verify(folder + "/prepared")
        >>> {split: sum(counts.values()) for split, counts in summary.counts.items()}
        {'train': 6, 'validation': 3, 'test': 3}
        >>> report.ok
        True
    """
    from busi_monai.curation import PrepareOptions, prepare_dataset

    options = PrepareOptions(
        layout=layout,
        protocol=protocol,
        dedup=dedup,
        ids=ids,
        known=known,
        train_list=train_list,
        validation_list=validation_list,
        test_list=test_list,
        from_datalist=from_datalist,
        ratios=ratios,
        folds=folds,
        seed=seed,
        multi_mask=multi_mask,
        missing_mask=missing_mask,
        mask_cleanup=mask_cleanup,
        overwrite=overwrite,
    )
    return prepare_dataset(dataset, out, options, progress=progress)


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        reports: one for each folder.
        shared: near-duplicates between several folders; ``None`` for a single one.
    """

    reports: Sequence[VerifyReport]
    shared: SharedImages | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(report.ok for report in self.reports) and (not self.shared or self.shared.ok)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        if self.shared is None:
            return self.reports[0].as_dict()
        folders = [report.as_dict() for report in self.reports]
        return {"ok": self.ok, "folders": folders, "shared": self.shared.as_dict()}


def verify(
    *prepared: str | Path,
    progress: Progress | None = None,
    each: Callable[[VerifyReport], None] | None = None,
) -> Verification:
    """Check that prepared folders are unchanged and that their splits don't leak.

    Near-duplicates are found anew in the pixels. Of several folders, as they are trained on
    together, a near-duplicate across them and their splits is an error too. ``prepare`` shows an
    example.

    Args:
        prepared: one folder or more.
        progress: wraps the images, to show a bar.
        each: called with each folder's report as soon as it is there.

    Raises:
        InputError: if a folder has no datalist, or is given twice.
    """
    from busi_monai.curation import check_different, find_shared_images, verify_prepared

    several = len(prepared) > 1
    if several:
        check_different(prepared)
    reports = []
    for folder in prepared:
        reports.append(verify_prepared(folder, progress=progress))
        if each:
            each(reports[-1])
    shared = find_shared_images(prepared, progress=progress) if several else None
    return Verification(reports, shared)
