"""The files that a search leaves: the table of trials, the best configuration, images, record."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from busi_monai.bundle import Bundle
from busi_monai.experiments.plans import section_of
from busi_monai.experiments.tuning_study import STATES, TrialStudy, best_trial
from busi_monai.files import read_json, write_text
from busi_monai.plots.tuning import draw_search
from busi_monai.records import RunRecord, installed_versions
from busi_monai.training.resuming import MACHINE_KEYS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["TRIAL_COLUMNS", "write_overview", "write_record"]

TRIAL_COLUMNS = ("trial", "state", "score", "best_epoch", "epochs", "seconds")
"""First columns of ``trials.csv``; then come the searched keys, ``reason`` and ``run``."""

RunOf = Callable[[int], Path]


def write_overview(out: Path, study: TrialStudy, run_of: RunOf) -> None:
    """Write ``trials.csv``, and ``best.yaml`` once a trial is complete."""
    trials = study.trials()
    rows = [_row(trial, study, run_of(trial.number), out) for trial in trials]
    columns = [*TRIAL_COLUMNS, *study.space.parameters, "reason", "run"]
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # whole numbers stay whole
    write_text(out / "trials.csv", table.to_csv(index=False, lineterminator="\n"))
    best = best_trial(trials)
    if best is not None:
        write_text(out / "best.yaml", _best_overlay(out, study, best, run_of(best.number)))


def _row(trial: FrozenTrial, study: TrialStudy, run: Path, out: Path) -> dict[str, Any]:
    record = _record_of(run)
    scores = trial.intermediate_values
    finite = {epoch: value for epoch, value in scores.items() if math.isfinite(value)}
    best = max(finite, key=lambda epoch: (finite[epoch], -epoch), default=None)
    values = study.space.decode(trial.params)
    return {
        "trial": trial.number,
        "state": STATES[trial.state.name],
        "score": "" if best is None else f"{finite[best]:.6f}",
        "best_epoch": best,
        "epochs": max(scores, default=0),
        "seconds": record.get("seconds"),
        **{key: _cell(value) for key, value in values.items()},
        "reason": trial.user_attrs.get("reason"),
        "run": run.relative_to(out).as_posix(),
    }


def _best_overlay(out: Path, study: TrialStudy, best: FrozenTrial, run: Path) -> str:
    """Return what the best trial changed of the bundle's configuration, as an overlay."""
    plan = read_json(out / "tuning.json")
    trained = Bundle(run).config("train")
    changed = [*plan["configuration"], *study.space.parameters]
    left_out = {"fold", "seed", *MACHINE_KEYS}
    sections = dict.fromkeys(section_of(key) for key in changed)
    overlay = {key: trained[key] for key in sections if key not in left_out}
    done = sum(trial.state.is_finished() for trial in study.trials())
    return (
        f"# Best of {done} trials by validation score: trial {best.number}, {best.value:.4f}\n"
        "---\n" + yaml.safe_dump(overlay, sort_keys=False, allow_unicode=True)
    )


def write_record(
    out: Path, study: TrialStudy, run_of: RunOf, record: RunRecord, plan: Mapping[str, Any]
) -> None:
    """Draw the images and write ``run.json``: what was searched, what was found, what failed."""
    trials = study.trials()
    best = best_trial(trials)
    for trial in trials:
        if trial.state.name == "FAIL":
            record.fail(
                run_of(trial.number).relative_to(out).as_posix(), trial.user_attrs.get("reason", "")
            )
    counts = Counter(STATES[trial.state.name] for trial in trials)
    details = {
        **plan,
        "trials": {"total": len(trials), **{name: counts[name] for name in STATES.values()}},
        "training_seconds": round(
            sum(_record_of(run_of(trial.number)).get("seconds", 0) for trial in trials), 3
        ),
        "best": None
        if best is None
        else {
            "trial": best.number,
            "score": best.value,
            "parameters": study.space.decode(best.params),
            "run": run_of(best.number).relative_to(out).as_posix(),
        },
        "importances": draw_search(out, study.study, plan["seed"]),
        "tuner": installed_versions(("optuna",)),
    }
    record.write(out, details)


def _record_of(run: Path) -> dict[str, Any]:
    return Bundle(run).record or {}


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)
