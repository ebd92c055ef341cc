"""Search the configuration for the highest validation score, resumable and in several processes."""

from __future__ import annotations

import logging
import math
import multiprocessing
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from busi_monai.bundle import Bundle
from busi_monai.errors import BusiMonaiError, ImageReadError, InputError, WeightsError
from busi_monai.experiments.processes import run_in_processes, usable_gpus
from busi_monai.experiments.tuning_outputs import write_overview, write_record
from busi_monai.experiments.tuning_plan import TuningPlan
from busi_monai.experiments.tuning_study import Claim, TrialStudy, best_trial, require_optuna
from busi_monai.files import read_json
from busi_monai.records import RunRecord
from busi_monai.training import train_bundle

__all__ = ["TuningPlan", "tune", "work"]

logger = logging.getLogger(__name__)

_HOPELESS = 3


def tune(plan: TuningPlan, *, trials: int = 20, jobs: int = 1) -> Path:
    """Search until there are ``trials`` trials, and return the search's folder.

    Call it again after an interrupt, or at the same time from other processes: each continues what
    others have left and adds what is missing. Only training and validation images are read.

    Args:
        plan: what is searched.
        trials: how many there are to be in all, earlier ones included.
        jobs: worker processes; with more than one, each gets its share of the threads.

    Returns:
        A folder with ``trials.csv``, ``trials/NNNN`` (a run each), ``best.yaml``, ``history.png``,
        ``courses.png``, ``importances.png`` and ``run.json``.

    Raises:
        InputError: if a dataset, configuration, key or device is not there, a package is missing,
            or the folder holds something else or another search.
        BusiMonaiError: if the first trials all fail, or a worker process ends too early.
    """
    require_optuna()
    plan.check()
    record = RunRecord()
    plan.begin()
    ended = None
    try:
        if jobs == 1:
            work(plan, trials)
        else:
            level = logging.getLogger("busi_monai.experiments").getEffectiveLevel()
            workers = {f"worker {number}": (plan, trials, level) for number in range(jobs)}
            try:
                run_in_processes(_worker, workers, jobs, gpus=usable_gpus(plan.device))
            except InputError:
                raise
            except BusiMonaiError as error:
                ended = error
    finally:
        study = plan.study()
        with study.locked():
            write_overview(plan.out, study, plan.run)
    with study.locked():
        write_record(plan.out, study, plan.run, record, plan.identity())
    states = [trial.state for trial in study.trials()]
    if ended and (len(states) < trials or not all(state.is_finished() for state in states)):
        raise BusiMonaiError(
            f"{ended}; what was finished is kept: run the same command to go on with the rest"
        )
    if ended:  # the other workers have taken its trial over
        logger.warning("%s; nothing is missing", ended)
    return plan.out


def _worker(plan: TuningPlan, total: int, level: int) -> None:
    logging.getLogger("busi_monai.experiments").setLevel(level)
    for name in ("train", "validate", "monai.bundle.workflows"):
        logging.getLogger(name).disabled = True
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    require_optuna()
    work(plan, total)


def work(plan: TuningPlan, total: int) -> None:
    """Run trials one after the other until none is left to claim."""
    # has a handler of its own, whatever the log's level is
    logging.getLogger("ignite.handlers.early_stopping.EarlyStopping").disabled = True
    study = plan.study()
    parent = multiprocessing.parent_process()
    while (parent is None or parent.is_alive()) and (claim := study.claim(total)) is not None:
        try:
            _run_trial(plan, study, claim)
        finally:
            claim.release()
        _clear_up(plan, study)


def _run_trial(plan: TuningPlan, study: TrialStudy, claim: Claim) -> None:
    run = plan.run(claim.number)
    logger.info("trial %d: %s", claim.number, _spoken(claim.parameters))
    try:
        pruned = "pruned_after" in study.trials()[claim.number].user_attrs
        if not Bundle(run).record_file.is_file() and not pruned:
            if study.died_too_often(claim):
                raise WeightsError(f"its process ended {claim.earlier} times in the same epoch")
            _train(plan, study, claim, run)
    except (ImageReadError, OSError):
        raise
    except (InputError, WeightsError, RuntimeError, ValueError) as error:
        study.fail(claim, _first_line(error))
        return
    _tell(study, claim, run)


def _train(plan: TuningPlan, study: TrialStudy, claim: Claim, run: Path) -> None:
    trial = claim.trial

    def observe(epoch: int, figures: Mapping[str, float]) -> bool:
        if (
            epoch not in study.trials()[claim.number].intermediate_values
        ):  # known if the process ended before it saved
            trial.report(figures["val_score"], epoch)
        through = epoch >= Bundle(run).config("train")["max_epochs"]
        if through or not trial.should_prune():
            return False
        trial.set_user_attr("pruned_after", epoch)
        return True

    def train(*, resume: bool) -> None:
        train_bundle(
            plan.prepared,
            run,
            configs=() if resume else plan.configs,  # the plan holds them, the run has them
            bundle=None if resume else plan.bundle,
            overrides={**plan.overrides, **claim.parameters},
            resume=resume,
            observe=observe,
        )

    resume = Bundle(run).config_file("train").is_file()
    if not resume and run.exists():
        shutil.rmtree(run)
    try:
        train(resume=resume)
    except WeightsError:
        if not resume:
            raise
        logger.warning("trial %d: its checkpoint is damaged; training it anew", claim.number)
        shutil.rmtree(run)
        train(resume=False)


def _tell(study: TrialStudy, claim: Claim, run: Path) -> None:
    pruned = study.trials()[claim.number].user_attrs.get("pruned_after")
    if pruned is not None:
        study.prune(claim)
        logger.info("trial %d pruned after epoch %d", claim.number, pruned)
        return
    score = read_json(Bundle(run).record_file).get("best", {}).get("val_score")
    if score is None or not math.isfinite(score):
        study.fail(claim, "no epoch was given a score by the validation")
        return
    study.study.tell(claim.trial, float(score))
    logger.info("trial %d: score %.4f", claim.number, score)


def _clear_up(plan: TuningPlan, study: TrialStudy) -> None:
    """Drop the weights of trials that have lost, and say where the search stands."""
    with study.locked():
        trials = study.trials()  # one look: a second could find a better trial told meanwhile
        best = best_trial(trials)
        finished = [trial for trial in trials if trial.state.is_finished()]
        for trial in finished:
            if plan.keep == "best" and (best is None or trial.number != best.number):
                shutil.rmtree(plan.run(trial.number) / "models", ignore_errors=True)
        write_overview(plan.out, study, plan.run)
    failed = [trial for trial in finished if trial.state.name == "FAIL"]
    if len(failed) == len(finished) and len(failed) >= _HOPELESS:
        raise BusiMonaiError(
            f"the first {len(failed)} trials all failed, the last one with: "
            f"{failed[-1].user_attrs.get('reason')}; correct the space or the configuration and "
            "search into another folder"
        )


def _spoken(parameters: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in parameters.items()
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
