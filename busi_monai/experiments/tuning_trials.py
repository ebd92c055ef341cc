"""Running the trials of a search, each a training that may be ended early or continued."""

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
from busi_monai.experiments.tuning_outputs import write_overview
from busi_monai.experiments.tuning_plan import TuningPlan
from busi_monai.experiments.tuning_study import Claim, TrialStudy, best_trial
from busi_monai.files import read_json
from busi_monai.training import train_bundle

__all__ = ["work"]

logger = logging.getLogger(__name__)

_HOPELESS = 3


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
        if not Bundle(run).record_file.is_file() and "pruned_after" not in _attributes(
            study, claim
        ):
            if study.died_too_often(claim):
                raise WeightsError(f"its process ended {claim.earlier} times in the same epoch")
            _train(plan, study, claim, run)
    except (ImageReadError, OSError):
        raise
    except (InputError, WeightsError, RuntimeError, ValueError) as error:
        claim.trial.set_user_attr("reason", _first_line(error))
        study.study.tell(claim.trial, state=_state("FAIL"))
        logger.warning("trial %d failed: %s", claim.number, _first_line(error))
        return
    _tell(study, claim, run)


def _train(plan: TuningPlan, study: TrialStudy, claim: Claim, run: Path) -> None:
    trial = claim.trial

    def observe(epoch: int, figures: Mapping[str, float]) -> bool:
        if epoch not in _intermediate(study, claim):  # known if the process ended before it saved
            trial.report(figures["val_score"], epoch)
        if epoch >= _epochs(run) or not trial.should_prune():
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
    pruned = _attributes(study, claim).get("pruned_after")
    if pruned is not None:
        study.study.tell(claim.trial, state=_state("PRUNED"))
        logger.info("trial %d pruned after epoch %d", claim.number, pruned)
        return
    score = read_json(Bundle(run).record_file).get("best", {}).get("val_score")
    if score is None or not math.isfinite(score):
        claim.trial.set_user_attr("reason", "no epoch was given a score by the validation")
        study.study.tell(claim.trial, state=_state("FAIL"))
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


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _epochs(run: Path) -> int:
    """Return how many epochs a run is to have: one that is through is not ended early."""
    config = Bundle(run).config("train")
    return int(config["max_epochs"])


def _attributes(study: TrialStudy, claim: Claim) -> dict[str, Any]:
    return dict(study.trials()[claim.number].user_attrs)


def _intermediate(study: TrialStudy, claim: Claim) -> dict[int, float]:
    return dict(study.trials()[claim.number].intermediate_values)


def _spoken(parameters: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in parameters.items()
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
