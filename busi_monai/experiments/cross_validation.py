"""Every fold trained, and each image predicted by the one network that never saw it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.cases import CLASSES
from busi_monai.curation import load_datalist
from busi_monai.curation.label_hashes import LABEL_HASHES, check_same_labels, write_label_hashes
from busi_monai.errors import InputError
from busi_monai.experiments.plans import (
    check_folder,
    effective_configuration,
    keep_plan,
    training_settings,
)
from busi_monai.experiments.pooling import write_pooled
from busi_monai.experiments.processes import (
    LOCKS,
    any_locked,
    locked,
    run_in_processes,
    run_in_turn,
    usable_gpus,
)
from busi_monai.files import read_json
from busi_monai.inference import write_ensemble
from busi_monai.outputs import check_place, is_complete
from busi_monai.records import RunRecord
from busi_monai.training import (
    datalist_hashes,
    find_initial_run,
    run_evaluation,
    train_bundle,
    training_items,
)

__all__ = ["PLAN", "cross_validate", "finished_folds"]

logger = logging.getLogger(__name__)

PLAN = "cross_validation.json"

_STARTS = ("extra_datalist_sha256", "initial_weights_sha256")
"""What a plan, and the record, hold of extra datasets and of initial weights, if there are any."""


def cross_validate(
    prepared: Sequence[str | Path],
    out: str | Path,
    *,
    configs: Sequence[str | Path] = (),
    bundle: str | Path = DEFAULT_BUNDLE,
    overrides: Mapping[str, Any] | None = None,
    folds: Sequence[int] | None = None,
    jobs: int = 1,
    resamples: int = 1000,
    overlays: bool = False,
    ensemble: bool = False,
) -> Path:
    """Train and evaluate every fold, pool the out-of-fold predictions, and measure them.

    Called again, it goes on: finished folds are left as they are, a fold that was interrupted
    continues after its last epoch.

    Args:
        prepared: one or several prepared datasets with folds. Where one has fewer than another, all
            of it trains and validates for the folds that it lacks.
        out: the folder to make or to go on with: ``folds/fold_K`` (each a run with its
            ``evaluation/``), ``predictions.csv``, ``metrics.json``, ``report.md``, ``run.json``.
        configs: names of shipped overlays, or YAML files.
        bundle: name of a shipped bundle, or folder of a bundle.
        overrides: values by configuration key.
        folds: which to do; by default all. What is pooled are all folds that are finished.
        jobs: folds at once, each in a process of its own, with a GPU of its own as long as there
            are enough.
        resamples: bootstrap resamples of the groups.
        overlays: whether each fold's evaluation has images with outlines.
        ensemble: whether the finished folds' networks are joined to a bundle, ``ensemble/``, for
            images that none of them has seen.

    Returns:
        The folder.

    Raises:
        InputError: if a dataset has no folds, a fold does not exist, a setting does not work,
            ``out`` was started with other settings, datasets or masks, another process trains a
            fold, an ensemble is wanted of one fold, or an extra dataset or initial run knows an
            image of a split that is validated or reported on.
        BusiMonaiError: if a fold failed in its process. Whatever fails, the other folds are
            finished first.
    """
    if not (Path(out) / PLAN).is_file():
        check_place(out, reads=prepared)
    out = Path(out).absolute()
    values = dict(overrides or {})
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    if "fold" in values:
        raise InputError("fold is set by the cross-validation itself; choose folds with --folds")
    count = _number_of_folds(prepared)
    wanted = sorted(set(range(count) if folds is None else folds))
    if not wanted or wanted[0] < 0 or wanted[-1] >= count:
        raise InputError(f"folds {wanted}: the prepared datasets have the folds 0 to {count - 1}")
    if ensemble and len({*wanted, *finished_folds(out)}) < 2:
        raise InputError(
            f"--ensemble needs at least two folds, and fold {wanted[0]} is the only one to be "
            "finished; choose more with --folds"
        )
    record = RunRecord()
    trainings = training_settings(bundle, configs, values)
    _check_starts(prepared, [fold for fold in wanted if fold not in finished_folds(out)], trainings)
    plan = {
        "folds": count,
        "bundle": find_bundle(bundle).name,
        **_data_hashes(prepared, trainings),
        "configuration": effective_configuration(bundle, configs, values),
    }
    _keep_plan(out, plan, datalist_hashes(prepared, _extra_folders(trainings)).labels)
    settings = {"configs": [str(name) for name in configs], "bundle": str(bundle)}
    folders = [str(Path(folder).absolute()) for folder in prepared]
    evaluation = {"resamples": resamples, "overlays": overlays}
    evaluation["device_name"] = trainings[-1].get("device_name", "auto")
    tasks = {
        f"fold_{fold}": (folders, str(out), fold, plan, settings, values, evaluation)
        for fold in wanted
        if fold not in finished_folds(out)
    }
    done = len(wanted) - len(tasks)
    if done:
        logger.info("%d of %d folds are finished already", done, len(wanted))
    try:
        if jobs == 1:
            run_in_turn(_finish_fold, tasks)
        elif tasks:
            gpus = usable_gpus(str(evaluation["device_name"]))
            run_in_processes(_finish_fold, tasks, min(jobs, len(tasks)), out / "logs", gpus)
    except InputError:
        _withdraw_unbegun(out)
        raise
    details = {"configs": settings["configs"], "bundle": plan["bundle"], "folds": count}
    details |= {name: plan[name] for name in _STARTS if name in plan}
    with locked(out, "pooling"):
        write_pooled(out, finished_folds(out), record, details, resamples=resamples)
        if ensemble:
            _keep_ensemble(out, finished_folds(out))
    return out


def finished_folds(out: str | Path) -> dict[int, Path]:
    """Return the runs of a cross-validation's finished folds by their number."""
    found = {}
    for path in Path(out).glob("folds/fold_*/evaluation/metrics.json"):
        number = path.parents[1].name.removeprefix("fold_")
        # not a copy that someone made beside it, and whole
        if number.isdecimal() and is_complete(path.parent):
            found[int(number)] = path.parents[1]
    return dict(sorted(found.items()))


def _check_starts(
    prepared: Sequence[str | Path], folds: Sequence[int], trainings: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse what a fold could not be trained with before the first one is."""
    for settings in trainings:
        extra, run = settings.get("extra_dataset_dir"), settings.get("initial_run")
        if not folds or not (extra or run):
            continue
        initial = find_initial_run(run, encoder_weights=settings.get("encoder_weights"))
        for fold in folds:
            training_items(
                prepared, extra=extra, fold=fold, classes=settings.get("classes", CLASSES)
            )
            if initial is not None:
                initial.refuse_held_out(prepared, fold=fold)


def _data_hashes(
    prepared: Sequence[str | Path], trainings: Sequence[Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """Return the hashes of what all folds learn from, for the plan."""
    initials = [find_initial_run(settings.get("initial_run")) for settings in trainings]
    weights = [initial.weights_sha256 for initial in initials if initial is not None]
    own = datalist_hashes(prepared).by_name
    more = datalist_hashes([], _extra_folders(trainings)).by_name
    extra, masks = (more.get(f"extra_{name}_sha256", []) for name in ("datalist", "labels"))
    found: dict[str, list[Any]] = {
        "extra_datalist_sha256": extra,
        "initial_weights_sha256": list(dict.fromkeys(weights)),
    }
    return {
        "datalist_sha256": [*own["datalist_sha256"], *extra],
        "labels_sha256": [*own["labels_sha256"], *masks],
        **{name: hashes for name, hashes in found.items() if hashes},
    }


def _extra_folders(trainings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the extra datasets of all trainings, each once."""
    named = [ensure_tuple(settings.get("extra_dataset_dir") or ()) for settings in trainings]
    return list(dict.fromkeys(str(folder) for each in named for folder in each))


def _begun(out: Path) -> bool:
    return any(out.glob("folds/fold_*/"))


def _keep_plan(out: Path, plan: Mapping[str, Any], labels: Sequence[Mapping[str, Any]]) -> None:
    path = out / PLAN
    remedy = "Go on with the masks that it was begun with, or choose another folder"
    if _begun(out):
        check_same_labels(out, labels, remedy)
        keep_plan(path, plan, begun=True)
        return
    check_folder(path)
    with locked(out, "plan"):
        begun = _begun(out) or any_locked(out, "fold_*")
        if begun:
            check_same_labels(out, labels, remedy)
        keep_plan(path, plan, begun=begun)
        if not begun:
            write_label_hashes(out, labels)


def _withdraw_unbegun(out: Path) -> None:
    """Leave nothing of a cross-validation whose settings do not work, if no fold was begun."""
    with locked(out, "plan"):
        if _begun(out) or any_locked(out, "fold_*"):
            return
        for name in ("folds", "logs"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in (PLAN, LABEL_HASHES):
            (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / LOCKS, ignore_errors=True)
    if not any(out.iterdir()):
        out.rmdir()


def _finish_fold(
    prepared: list[str],
    out: str,
    fold: int,
    plan: dict[str, Any],
    settings: dict[str, Any],
    overrides: dict[str, Any],
    evaluation: dict[str, Any],
) -> None:
    run = Path(out) / "folds" / f"fold_{fold}"
    busy = f"fold {fold} of {out} is being trained by another process; go on when it has ended"
    with locked(Path(out), run.name, busy):
        if fold in finished_folds(out):
            return
        with locked(Path(out), "plan"):  # which another process may have written meanwhile
            keep_plan(Path(out) / PLAN, plan, begun=True)
        if not Bundle(run).record_file.is_file():
            logger.info("fold %d: training", fold)
            overrides = {**overrides, "fold": fold}
            train_bundle(prepared, run, overrides=overrides, resume=True, **settings)
        logger.info("fold %d: evaluating", fold)
        run_evaluation(run, prepared, run / "evaluation", fold=fold, overrides=evaluation)


def _keep_ensemble(out: Path, folds: Mapping[int, Path]) -> None:
    """Write the ensemble of all finished folds, unless it is there already."""
    weights = [read_json(Bundle(run).record_file)["weights_sha256"] for run in folds.values()]
    there = out / "ensemble" / "run.json"
    if there.is_file():
        members = read_json(there).get("members", ())
        if [member["weights_sha256"] for member in members] == weights:
            return
    write_ensemble(list(folds.values()), out / "ensemble", overwrite=True)


def _number_of_folds(prepared: Sequence[str | Path]) -> int:
    counts = {str(folder): load_datalist(folder).folds for folder in prepared}
    if not counts:
        raise InputError("expected at least one prepared dataset, got none")
    without = [folder for folder, count in counts.items() if not count]
    if without:
        raise InputError(
            f"{', '.join(without)} has no folds; prepare with --folds 5 to cross-validate"
        )
    return max(counts.values())
