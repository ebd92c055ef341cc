"""Train the two stages of a staged bundle, and put them together into one bundle.

A staged bundle has ``configs/train_segmentation.yaml`` and ``configs/train_classification.yaml``,
each laid over ``train.yaml`` of the shipped multitask bundle. Its run holds the two runs under
``stages/``, and is a bundle of the network that both make together.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import (
    read_configuration,
    refuse_differences,
    write_configuration,
)
from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle, find_config
from busi_monai.bundle.training_images import check_same_images
from busi_monai.bundle.workflow import laid_configuration
from busi_monai.curation.label_hashes import check_same_labels
from busi_monai.devices import launched_by_torchrun
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.outputs import check_place, holds_nothing
from busi_monai.training.assembly import (
    TWO_STAGE_BUNDLE,
    assemble_stages,
    pipeline_settings,
)
from busi_monai.training.data import datalist_hashes, training_items
from busi_monai.training.initial_run import check_same_initial_run, find_initial_run
from busi_monai.training.resuming import CHANGEABLE, OTHER_MASKS, refuse_other_settings
from busi_monai.training.runs import Observer, check_keys, train_run, with_full_paths

__all__ = ["STAGES", "is_staged", "stage_layers", "train_bundle", "train_stages"]

logger = logging.getLogger(__name__)

STAGES = ("segmentation", "classification")
PIPELINE = "pipeline"
HEADS = ("seg_weight", "cls_weight")
"""What makes a stage the stage it is; an overlay for both leaves them alone."""

Layers = list[dict[str, Any]]


def train_bundle(
    prepared: Sequence[str | Path],
    out: str | Path,
    *,
    configs: Sequence[str | Path] = (),
    bundle: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    tracking: str | None = None,
    observe: Observer | None = None,
) -> Path:
    """Train a bundle on prepared datasets and return the run's folder.

    Args:
        prepared: one or several prepared datasets.
        out: the run's folder; refused if it is not empty, unless the run is resumed.
        configs: names of shipped overlays or YAML files, laid over the bundle's ``train.yaml`` in
            turn.
        bundle: name of a shipped bundle, or folder of a bundle; one that is trained in stages goes
            through ``train_stages``. By default ``DEFAULT_BUNDLE``, or the
            configuration of the run that is resumed.
        overrides: values by configuration key (``{"max_epochs": 5, "train#trainer#amp": True}``).
        resume: continue the run in ``out``, if there is one, with its own configuration. What is
            given beside it must be equal to that, but for ``CHANGEABLE`` settings: these are taken
            over.
        tracking: ``mlflow``, or a file of tracking settings.
        observe: called after every validation with the epoch and its figures (``val_score``,
            ``val_lesion_dice``, …); what it returns as true ends the training after that epoch.

    Raises:
        InputError: if a dataset, bundle, configuration, key or device is not there, ``out`` is not
            empty, or the run to resume was started with other settings.
        WeightsError: if the checkpoint to resume from does not fit.
    """
    values = with_full_paths(overrides or {})
    if not resume:
        check_place(out, reads=[*prepared, *ensure_tuple(values.get("extra_dataset_dir") or ())])
    if is_staged(bundle, out if resume else None):
        if launched_by_torchrun():
            raise InputError(
                "two stages are trained in one process: train without torchrun, or each stage by "
                "itself with seg_weight=0 or cls_weight=0 and the multitask bundle"
            )
        return train_stages(
            prepared, out, bundle=bundle, configs=configs, overrides=values, resume=resume,
            tracking=tracking, observe=observe,
        )  # fmt: skip
    base = Bundle(out).config_file("train")
    if bundle is not None or not (resume and base.is_file()):
        base = Bundle.open(bundle or DEFAULT_BUNDLE).config_file("train")
    train_run(
        prepared, out, [base, *configs], overrides=values, resume=resume, tracking=tracking,
        observe=observe,
    )  # fmt: skip
    return Path(out).absolute()


def is_staged(bundle: str | Path | None, out: str | Path | None = None) -> bool:
    """Return whether a bundle, or the run in ``out`` that is to be resumed, is trained in stages.

    Examples:
        >>> is_staged("breast_ultrasound_two_stage")
        True
    """
    if out is not None and _settings_file(Path(out)).is_file():
        return True
    configs = Bundle.open(bundle or DEFAULT_BUNDLE).configs
    return all((configs / f"train_{stage}.yaml").is_file() for stage in STAGES)


def train_stages(
    prepared: Sequence[str | Path],
    out: str | Path,
    *,
    bundle: str | Path | None = None,
    configs: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    tracking: str | None = None,
    observe: Observer | None = None,
) -> Path:
    """Train both stages on prepared datasets and return the folder of the run that they make.

    Args:
        prepared: one or several prepared datasets.
        out: the run's folder, with the runs of the stages in ``stages/``.
        bundle: name of a shipped staged bundle, or its folder; also a run of one. By default the
            shipped one, or that of the run that is resumed.
        configs: overlays for both stages; what stands under ``segmentation:``,
            ``classification:`` or ``pipeline:`` in them is for that one. The weights of the two
            losses are the stages' own.
        overrides: values by configuration key for both stages, or with the prefix
            ``segmentation#`` or ``classification#`` for one of them; ``pipeline#…`` sets a field
            of the assembled bundle's ``settings.json``, such as ``pipeline#image_size``.
        resume: continue the run in ``out`` with the settings it was started with: a stage that is
            complete is not repeated, one that was interrupted goes on. What is given beside it must
            be equal to these, but for ``CHANGEABLE`` settings: stages that are not complete take
            them over.
        tracking: as for ``train_bundle``, of both stages.
        observe: as for ``train_bundle``, over both stages; the epochs of the second count on from
            the length of the first. After it has once returned true, the next stage ends after its
            first validation too.

    Raises:
        InputError: if a dataset, bundle, configuration, key or device is not there, ``out`` is not
            empty, the run to resume was started with other settings, or the stages do not fit
            together.
        WeightsError: if the checkpoint to resume from does not fit.
    """
    out = Path(out).absolute()
    given = overrides or {}
    if resume and _settings_file(out).is_file():
        settings = _resumed_settings(prepared, out, bundle, configs, given)
    else:
        if not holds_nothing(out):
            if resume and Bundle(out).config_file("train").is_file():
                raise InputError(
                    f"{out} was trained in one go, not in the two stages of {bundle}: leave "
                    "--model out to resume it, or begin a new run"
                )
            kind = "no run to resume" if resume else "not empty"
            raise InputError(
                f"{out} is {kind}; choose another folder, or pass --resume to continue a run"
            )
        settings = _settings(bundle or TWO_STAGE_BUNDLE, configs, given)
    root = find_bundle(settings["bundle"])
    pipeline_settings(root, settings[PIPELINE])  # what is wrong shows before hours of training
    if _merged(settings["classification"]).get("pooling") == "mask":
        raise InputError(
            "classification: pooling=mask weighs by the network's own mask, and this stage has no "
            "mask head; it sees the lesion's crop: choose another pooling"
        )
    with tempfile.TemporaryDirectory() as folder:
        files = {stage: _written(settings[stage], Path(folder), stage) for stage in STAGES}
        base = Bundle.open().config_file("train")
        for stage in STAGES:
            check_keys([base, *files[stage]], {})
        write_json(_settings_file(out), settings)
        observer = _Observer(observe)
        try:
            for stage in STAGES:
                run = stage_run(out, stage)
                own = Bundle(run).config_file("train")
                begun = own.is_file()
                arguments = {
                    "files": [own] if begun else [base, *files[stage]],
                    "overrides": with_full_paths(_free(settings[stage])) if begun else {},
                    "resume": begun,
                }
                _train_stage(prepared, run, observer, tracking=tracking, **arguments)
        except BaseException:
            _forget_if_nothing_was_trained(out)
            raise
    if Bundle(out).record_file.is_file():
        logger.info("the run in %s is complete", out)
        return out
    for stage in STAGES:
        write_configuration(Bundle(out).config_file(f"train_{stage}"), _merged(settings[stage]))
    masks, classes = (stage_run(out, stage) for stage in STAGES)
    assemble_stages(masks, classes, out, bundle=root, pipeline=settings[PIPELINE])
    return out


def stage_run(out: Path, stage: str) -> Path:
    """Return the folder of a stage's run within a staged run."""
    return out / "stages" / stage


def stage_layers(
    overlays: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any]
) -> dict[str, Layers]:
    """Return what each stage, and the pipeline, is told by overlays and overrides, in turn.

    Raises:
        InputError: if a section of an overlay is no mapping, or an override would turn a stage into
            another one.

    Examples:
        >>> layers = stage_layers(
        ...     [{"batch_size": 4, "classification": {"encoder": "resnet18"}}],
        ...     {"max_epochs": 2, "segmentation#encoder": "unet"},
        ... )
        >>> layers["segmentation"]
        [{'batch_size': 4}, {'max_epochs': 2, 'encoder': 'unet'}]
        >>> layers["classification"]
        [{'batch_size': 4, 'encoder': 'resnet18'}, {'max_epochs': 2}]
    """
    sections = (*STAGES, PIPELINE)
    layers: dict[str, Layers] = {name: [] for name in sections}
    for overlay in overlays:
        common = {key: value for key, value in overlay.items() if key not in (*sections, *HEADS)}
        for name in sections:
            own = overlay.get(name) or {}
            if not isinstance(own, Mapping):
                raise InputError(f"{name}: expected a mapping of configuration keys, got {own!r}")
            _check_heads(own)
            layers[name].append({**_of_stage(name, common), **own})
    last: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for key, value in overrides.items():
        section, sign, rest = key.replace("::", "#").partition("#")
        if sign and section in sections:
            last[section][rest] = value
        else:
            for stage in STAGES:
                last[stage] |= _of_stage(stage, {key: value})
    for name in sections:
        _check_heads(last[name])
        layers[name].append(last[name])
    return {name: [layer for layer in layers[name] if layer] for name in sections}


def _of_stage(name: str, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stage takes of settings for both: only the second one has a crop."""
    if name == PIPELINE:
        return {}
    crop = name == "classification"
    return {key: value for key, value in common.items() if crop or "lesion_crop" not in key}


def _settings(
    bundle: str | Path, configs: Sequence[str | Path], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    root = find_bundle(bundle)
    shipped = {stage: Bundle(root).config(f"train_{stage}") for stage in STAGES}
    layers = stage_layers([read_configuration(find_config(name)) for name in configs], overrides)
    found: dict[str, Any] = {stage: [shipped[stage], *layers[stage]] for stage in STAGES}
    name = str(bundle) if str(bundle) == root.name else str(root)
    return {"bundle": name, **found, PIPELINE: _merged(layers[PIPELINE])}


def _resumed_settings(
    prepared: Sequence[str | Path],
    out: Path,
    bundle: str | Path | None,
    configs: Sequence[str | Path],
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a run was started with, and of what is given now what may change."""
    kept = _kept_settings(out)
    now: dict[str, Any] = dict(kept)
    if bundle is None:
        more = stage_layers([read_configuration(find_config(name)) for name in configs], overrides)
        now |= {stage: [*kept[stage], *more[stage]] for stage in STAGES}
        now[PIPELINE] = {**kept[PIPELINE], **_merged(more[PIPELINE])}
    else:
        named = {"bundle": Path(kept["bundle"]).name}, {"bundle": find_bundle(bundle).name}
        refuse_differences(out, *named, "Leave --model out to resume it, or begin a new run")
        now = _settings(bundle, configs, overrides)
    pipelines = {PIPELINE: kept[PIPELINE]}, {PIPELINE: now[PIPELINE]}
    remedy = "Leave such settings out to resume it with its own, or begin a new run"
    refuse_differences(out, *pipelines, remedy)
    base = Bundle.open().config("train")
    for stage in STAGES:
        run = stage_run(out, stage)
        before, after = (laid_configuration([base, *each[stage]]) for each in (kept, now))
        begun = Bundle(run).checkpoint.is_file()
        refuse_other_settings(run, before, after, begun=begun)
        changed = {key: value for key, value in after.items() if before.get(key) != value}
        if not Bundle(run).record_file.is_file():
            kept[stage] += [changed] if changed else []
            continue
        _check_same_start(run, prepared, after)
        if late := [key for key in changed if key in CHANGEABLE]:
            logger.warning("%s is complete: %s has no effect on it", run, ", ".join(late))
    return {**kept, "bundle": now["bundle"]}


def _check_same_start(run: Path, prepared: Sequence[str | Path], config: Mapping[str, Any]) -> None:
    """Refuse other images, masks or initial weights than a complete stage was trained with."""
    extra, fold, classes = (config[key] for key in ("extra_dataset_dir", "fold", "classes"))
    check_same_images(run, training_items(prepared, extra=extra, fold=fold, classes=classes))
    check_same_labels(run, datalist_hashes(prepared, extra).labels, OTHER_MASKS)
    weights = config["encoder_weights"]
    initial = find_initial_run(config["initial_run"], encoder_weights=weights, resumed=run)
    check_same_initial_run(run, initial)


def _free(layers: Layers) -> dict[str, Any]:
    """Return of a stage's settings those that it may be told anew when it is resumed."""
    free = (*CHANGEABLE, "extra_dataset_dir", "initial_run")
    return {key: value for key, value in _merged(layers).items() if key in free}


def _kept_settings(out: Path) -> dict[str, Any]:
    path = _settings_file(out)
    kept = read_json(path)
    if not isinstance(kept, dict) or not {"bundle", PIPELINE, *STAGES} <= set(kept):
        raise InputError(
            f"{path}: expected the settings bundle, {', '.join(STAGES)} and {PIPELINE}; the run "
            "cannot be continued: start a new one"
        )
    return kept


def _train_stage(
    prepared: Sequence[str | Path], run: Path, observe: _Observer, **arguments: Any
) -> None:
    if not Bundle(run).record_file.is_file():
        logger.info("training the stage %s in %s", run.name, run)
        train_run(prepared, run, observe=observe, **arguments)
    observe.before += read_json(Bundle(run).record_file)["max_epochs"]


class _Observer:
    """Counts epochs on over the stages, and ends every stage once it was asked to."""

    def __init__(self, observe: Observer | None) -> None:
        self.observe = observe
        self.before = 0
        self.stopped = False

    def __call__(self, epoch: int, figures: dict[str, float]) -> bool:
        if self.observe is not None and not self.stopped:
            self.stopped = bool(self.observe(self.before + epoch, figures))
        return self.stopped


def _forget_if_nothing_was_trained(out: Path) -> None:
    if not any(stage_run(out, stage).is_dir() for stage in STAGES):
        _settings_file(out).unlink()
        with contextlib.suppress(OSError):  # not ours alone
            (out / "stages").rmdir()
            out.rmdir()


def _settings_file(out: Path) -> Path:
    return out / "stages" / "settings.json"


def _written(layers: Layers, folder: Path, stage: str) -> list[Path]:
    paths = []
    for number, layer in enumerate(layers):
        paths.append(folder / f"{stage}_{number}.yaml")
        write_configuration(paths[-1], layer)
    return paths


def _merged(layers: Layers) -> dict[str, Any]:
    return {key: value for layer in layers for key, value in layer.items()}


def _check_heads(settings: Mapping[str, Any]) -> None:
    for key in settings:
        if key.partition("#")[0] in HEADS:
            raise InputError(
                f"{key} cannot be set: each stage trains its one head; train "
                "breast_ultrasound_segmentation_classification for both in one network"
            )
