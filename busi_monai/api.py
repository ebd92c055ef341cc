"""The functions of ``busi_monai``: one for each step of a project, and for the command of its name.

What they need is imported when they are called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busi_monai.bundle import Bundle
    from busi_monai.curation import Audit, PrepareSummary, SharedImages, VerifyReport
    from busi_monai.experiments import Comparison
    from busi_monai.inference import PredictSummary

__all__ = [
    "Verification",
    "__version__",
    "audit",
    "compare",
    "evaluate",
    "list_datasets",
    "list_encoders",
    "predict",
    "prepare",
    "train",
    "training_overrides",
    "verify",
]

try:
    __version__ = version("busi-monai")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"

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


def list_encoders() -> list[str]:
    """Return the names that a configuration's ``encoder`` can take, sorted.

    Examples:
        >>> "basic_unet" in list_encoders()
        True
    """
    from busi_monai.networks import ENCODERS

    return sorted(ENCODERS)


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
        progress: wraps the cases that are gone through, to show a bar.

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
    from busi_monai.files import named
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
            "root": named(listing.root),
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
    val_list: Path | None = None,
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
    (H, W) uint8, 0 and 255), ``datalist.json`` (which image is in which part), the audit and
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
        val_list: for ``file``: ids of the validation images.
        test_list: for ``file``: ids of the test images.
        from_datalist: name of a shipped split, or a ``datalist.json``, to repeat.
        ratios: training/validation/test in per cent.
        folds: number of folds for cross-validation, instead of ratios; 0 for none.
        seed: of every random draw.
        multi_mask: ``split`` adds a training case for each mask of an image with several.
        missing_mask: ``exclude`` or ``classify-only``, for a lesion without a mask.
        mask_cleanup: smooth and fill masks, drop their specks.
        overwrite: replace what was prepared in ``out`` before.
        progress: wraps the cases that are gone through, to show a bar.

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
        >>> {part: sum(counts.values()) for part, counts in summary.counts.items()}
        {'training': 6, 'validation': 3, 'test': 3}
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
        val_list=val_list,
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
    """Check that prepared folders are unchanged and that their parts don't leak.

    Near-duplicates are found anew in the pixels. Of several folders, as they are trained on
    together, a near-duplicate across them and their parts is an error too. ``prepare`` shows an
    example.

    Args:
        prepared: one folder or more.
        progress: wraps the images that are gone through, to show a bar.
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


def training_overrides(
    *,
    extra: Sequence[str | Path] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    patience: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    fold: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return values by configuration key of what ``train`` takes; what is ``None`` is left out.

    Examples:
        >>> training_overrides(epochs=3, image_size=128, settings={"balance": "loss"})
        {'max_epochs': 3, 'image_size': [128, 128], 'balance': 'loss'}
    """
    values = {
        "extra_dataset_dir": [str(Path(folder).absolute()) for folder in extra] or None,
        "max_epochs": epochs,
        "batch_size": batch_size,
        "image_size": None if image_size is None else [image_size, image_size],
        "patience": patience,
        "seed": seed,
        "device_name": device,
        "fold": fold,
    }
    given = {key: value for key, value in values.items() if value is not None}
    return {**given, **(settings or {})}


def train(
    prepared: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    configs: Sequence[str | Path] = (),
    resume: bool = False,
    tracking: str | None = None,
    extra: Sequence[str | Path] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    patience: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    fold: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Bundle:
    """Train a bundle on prepared datasets; the run is itself a bundle.

    Args:
        prepared: one or several prepared datasets.
        out: the run's folder to make.
        model: bundle to train, by name or folder; by default the shipped one, or what is resumed.
        configs: names of shipped overlays (``smoke``, ``cpu``, …) or YAML files, laid on in turn.
        resume: continue the run in ``out``.
        tracking: ``mlflow``, or a file of tracking settings.
        extra: further datasets whose training parts are trained on too.
        epochs: length of the training.
        batch_size: images for one step.
        image_size: side of the network's square input, px.
        patience: validations without a better score, after which the training ends.
        seed: of every random draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        fold: reported fold of a dataset with folds.
        settings: any other key of the configuration, nested keys as ``a#b``.

    Returns:
        The run; ``Bundle.record`` tells of its course.

    Raises:
        InputError: if a dataset, bundle, configuration, key or device is not there, ``out`` is not
            empty, or the run to resume was started otherwise.
        WeightsError: if the checkpoint to resume from does not fit.

    Examples:
        >>> run = train("prepared", "runs/first", configs=["cpu"], epochs=50)  # doctest: +SKIP
        >>> metrics = evaluate(run.folder, "prepared", "evaluation")           # doctest: +SKIP
        >>> metrics["lesion_dice"]                                             # doctest: +SKIP
        {'value': 0.71, 'low': 0.66, 'high': 0.76, 'n': 52}
    """
    from busi_monai.bundle import Bundle
    from busi_monai.training import train_bundle

    overrides = training_overrides(
        extra=extra,
        epochs=epochs,
        batch_size=batch_size,
        image_size=image_size,
        patience=patience,
        seed=seed,
        device=device,
        fold=fold,
        settings=settings,
    )
    run = train_bundle(
        _several(prepared),
        out,
        configs=configs,
        bundle=model,
        overrides=overrides,
        resume=resume,
        tracking=tracking,
    )
    return Bundle(run)


def evaluate(
    model: str | Path,
    prepared: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    split: str = "reported",
    fold: int | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    resamples: int | None = None,
    tta_flip: bool | None = None,
    operating_point: str | None = None,
    consistency: bool | Mapping[str, Any] | None = None,
    overlays: bool = True,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure a run or bundle on a split of prepared datasets; ``train`` shows an example.

    Args:
        model: folder of a run or bundle, or a shipped bundle's name.
        prepared: one or several prepared datasets.
        out: folder to make: predictions, ``metrics.json``, report and figures.
        split: ``train``, ``validation``, ``test`` or ``reported``: the test part, or the run's own
            fold.
        fold: the reported fold; by default the run's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: images for one call of the network.
        resamples: bootstrap resamples of the groups.
        tta_flip: predict the mirror image too and average; by default as the bundle says.
        operating_point: decide malignancy at this threshold of ``settings.json``.
        consistency: make mask and class agree; by default as the bundle says. A mapping changes
            the rule's keys.
        overlays: write images with outlines.
        settings: any other key of ``evaluate.yaml``, nested keys as ``a#b``.
        overwrite: replace an earlier evaluation in ``out``.

    Returns:
        ``metrics.json``: every estimate as ``{"value", "low", "high", "n"}``, with a 95 %
        interval.

    Raises:
        InputError: if a dataset, model, split or device is not there, or ``out`` is refused.
        WeightsError: if the weights are missing or do not fit.
    """
    from busi_monai.files import read_json
    from busi_monai.training import run_evaluation

    overrides = {
        "device_name": device,
        "batch_size": batch_size,
        "resamples": resamples,
        "tta_flip": tta_flip,
        "operating_point": operating_point,
        "consistency": consistency,
        "overlays": overlays,
        "overwrite": overwrite,
        **(settings or {}),
    }
    folder = run_evaluation(
        model, _several(prepared), out, part=split, fold=fold, overrides=overrides
    )
    return dict(read_json(folder / "metrics.json"))


def predict(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 1,
    tta_flip: bool | None = None,
    operating_point: str | None = None,
    consistency: bool | None = None,
    overlays: bool = True,
    formats: Sequence[str] = (),
    fractional: bool = False,
    crop_region: bool = False,
    keep_ids: bool = False,
    overwrite: bool = False,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> PredictSummary:
    """Outline and classify lesions in images, into a folder of masks, overlays and a table.

    ``Predictor`` does the same for one image in memory. What fails is listed in the summary's
    ``failures``; the others are done.

    Args:
        inputs: files, folders, archives or glob patterns.
        out: folder to make; not made if no image could be predicted.
        model: folder of a run or bundle, or a shipped bundle's name; by default the released
            weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: images for one call of the network.
        tta_flip: predict the mirror image too and average; by default as the bundle says.
        operating_point: decide malignancy at this threshold of ``settings.json``.
        consistency: make mask and class agree; by default as the bundle says.
        overlays: write images with outlines.
        formats: ``nifti``, ``dicom-seg``, ``dicom-sr``: written beside the PNG masks.
        fractional: DICOM segmentations hold probabilities, not masks.
        crop_region: look at the ultrasound region alone that a DICOM file states.
        keep_ids: DICOM objects name patient and examination.
        overwrite: replace an earlier result in ``out``.
        progress: wraps the iteration to show a bar; called with the iterable and its length.

    Raises:
        InputError: if ``out`` is refused, or there is no such model, device or format.
        WeightsError: if the weights are missing or do not fit.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from busi_monai.phantoms import write_phantom_dataset
        >>> with TemporaryDirectory() as folder:
        ...     dataset = write_phantom_dataset(folder + "/data", cases=1, size=(64, 80))
        ...     predict(dataset / "normal", folder + "/out", device="cpu").predicted
        1
    """
    from busi_monai.inference import predict_to_folder

    return predict_to_folder(
        _several(inputs),
        out,
        bundle=model,
        device=device,
        overwrite=overwrite,
        overlays=overlays,
        batch_size=batch_size,
        tta_flip=tta_flip,
        operating_point=operating_point,
        consistency=consistency,
        formats=formats,
        fractional=fractional,
        crop_to_region=crop_region,
        keep_ids=keep_ids,
        track=progress,
    )


def compare(
    systems: Mapping[str, str | Path] | Sequence[str | Path],
    out: str | Path,
    *,
    reference: str | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "Comparison",
    common: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    markdown: str | Path | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Put evaluated systems in one table, with paired differences to one of them.

    Args:
        systems: folders of runs with an ``evaluation/``, of evaluations, or of cross-validations,
            by name; or a list of them, named by their last folder or as ``NAME=PATH``.
        out: folder to make: the table as CSV, Markdown, HTML and image, the differences as CSV.
        reference: system that differences are taken to; by default the first.
        notes: remarks by system; an unknown name becomes a row for what could not be run.
        title: heading of the report.
        common: compare on the images in common, whatever the datalists.
        resamples: bootstrap resamples of the groups.
        seed: of the resampling.
        markdown: file to write the report into as well.
        overwrite: replace an earlier comparison in ``out``.

    Raises:
        InputError: if a system has no evaluation, they were not measured on the same images, or
            ``out`` is refused.

    Examples:
        >>> compare({"ours": "runs/a", "theirs": "runs/b"}, "comparison").differences[
        ...     "theirs"]["lesion_dice"]  # doctest: +SKIP
        {'difference': -0.02, 'low': -0.05, 'high': 0.01, 'same_sign': 0.91, 'n': 52}
    """
    from busi_monai.experiments import compare_systems, read_system, write_comparison
    from busi_monai.experiments.systems import named_path
    from busi_monai.outputs import check_output

    if isinstance(systems, Mapping):
        named = [(name, Path(path)) for name, path in systems.items()]
    else:
        named = [named_path(str(path)) for path in systems]
    check_output(out, "compare", reads=[path for _, path in named], overwrite=overwrite)
    read = [read_system(*each) for each in named]
    comparison = compare_systems(
        read,
        reference=reference,
        notes=notes,
        title=title,
        common=common,
        resamples=resamples,
        seed=seed,
    )
    folders = {system.name: str(system.folder) for system in read}
    write_comparison(
        comparison,
        out,
        overwrite=overwrite,
        markdown=markdown,
        details={"systems": folders},
        reads=[*folders.values(), *(path for _, path in named)],
    )
    return comparison


def _several(given: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [given] if isinstance(given, (str, Path)) else given
