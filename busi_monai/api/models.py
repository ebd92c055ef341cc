"""From prepared datasets to models, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busi_monai.bundle import Bundle
    from busi_monai.experiments import Comparison

__all__ = ["compare", "evaluate", "list_encoders", "train", "training_overrides"]

Paths = str | Path | Sequence[str | Path]
"""One path or several."""


def list_encoders() -> list[str]:
    """Return the names that a configuration's ``encoder`` can take, sorted.

    Examples:
        >>> "resnet18" in list_encoders()
        True
    """
    from busi_monai.networks import ENCODERS

    return sorted(ENCODERS)


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
    prepared: Paths,
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
        extra: further datasets whose split ``train`` is trained on too.
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
    prepared: Paths,
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
        split: ``train``, ``validation``, ``test`` or ``reported``: the test split, or the run's
            own fold.
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
        model, _several(prepared), out, split=split, fold=fold, overrides=overrides
    )
    return dict(read_json(folder / "metrics.json"))


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


def _several(given: Paths) -> Sequence[str | Path]:
    return [given] if isinstance(given, (str, Path)) else given
