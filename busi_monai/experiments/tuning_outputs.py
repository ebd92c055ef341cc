"""The files that a search leaves: the table of trials, the best configuration, images, record."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from busi_monai.bundle import Bundle
from busi_monai.experiments.plans import section_of
from busi_monai.experiments.tuning_study import STATES, TrialStudy, best_trial
from busi_monai.files import atomic_file, read_json, write_text
from busi_monai.plots.palette import FAINT, INK, MUTED
from busi_monai.records import RunRecord, installed_versions
from busi_monai.training.resuming import MACHINE_KEYS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["TRIAL_COLUMNS", "importances", "write_images", "write_overview", "write_record"]

TRIAL_COLUMNS = ("trial", "state", "score", "best_epoch", "epochs", "seconds")
"""First columns of ``trials.csv``; then come the searched keys, ``reason`` and ``run``."""

_COLOURS = {"complete": MUTED, "pruned": FAINT, "failed": INK}

RunOf = Callable[[int], Path]


def write_overview(out: Path, study: TrialStudy, run_of: RunOf) -> None:
    """Write ``trials.csv``, and ``best.yaml`` once a trial is complete.

    Args:
        out: the search's folder.
        study: the trials.
        run_of: gives a trial's run by number.
    """
    keys = list(study.space.parameters)
    text = io.StringIO()
    table = csv.DictWriter(text, [*TRIAL_COLUMNS, *keys, "reason", "run"], lineterminator="\n")
    table.writeheader()
    trials = study.trials()
    for trial in trials:
        table.writerow(_row(trial, study, run_of(trial.number), out))
    write_text(out / "trials.csv", text.getvalue())
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


def write_images(out: Path, study: TrialStudy, seed: int = 0) -> None:
    """Draw ``history.png``, and ``importances.png`` where there is enough to tell.

    Args:
        out: the search's folder.
        study: the trials.
        seed: of the importances.
    """
    with atomic_file(out / "history.png") as partial:
        _history_figure(study.trials()).savefig(partial, dpi=110)
    found = importances(study, seed)
    if not found:
        (out / "importances.png").unlink(missing_ok=True)
        return
    with atomic_file(out / "importances.png") as partial:
        _importances_figure(found).savefig(partial, dpi=110)


def importances(study: TrialStudy, seed: int = 0) -> dict[str, float]:
    """Return the share of the scores' variation that each key accounts for, largest first.

    The shares are those of fANOVA (Hutter et al., 2014) over the complete trials and sum to 1;
    with fewer than four of them, or equal scores, nothing can be told and nothing is returned.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    scores = {trial.value for trial in study.trials() if trial.state.name == "COMPLETE"}
    if len(scores) < 4:
        return {}
    found = get_param_importances(study.study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {key: float(share) for key, share in found.items()}


def write_record(
    out: Path, study: TrialStudy, run_of: RunOf, record: RunRecord, plan: Mapping[str, Any]
) -> None:
    """Write ``run.json``: what was searched, what was found, what failed.

    Args:
        out: the search's folder.
        study: the trials.
        run_of: gives a trial's run by number.
        record: begun when the command started.
        plan: what the search is.
    """
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
        "importances": importances(study, plan["seed"]),
        "tuner": installed_versions(("optuna",)),
    }
    record.write(out, details)


def _history_figure(trials: list[FrozenTrial]) -> Figure:
    """Return the scores by trial with the best so far, and every trial's course."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, colour in _COLOURS.items():
        chosen = [
            (trial.number, trial.value)
            for trial in trials
            if STATES[trial.state.name] == name and _finite(trial.value)
        ]
        if chosen:
            left.plot(*zip(*chosen, strict=True), "o", color=colour, label=name, markersize=5)
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    if complete:
        best = np.maximum.accumulate([t.value for t in complete])
        left.step([t.number for t in complete], best, where="post", color=INK, label="best")
        left.legend(fontsize="small")
    left.set(title="Trials", xlabel="trial", ylabel="validation score")
    winner = max(complete, key=lambda t: (t.value, -t.number), default=None)
    for trial in trials:
        course = sorted((e, v) for e, v in trial.intermediate_values.items() if math.isfinite(v))
        if course:
            first = trial == winner
            colour = _COLOURS.get(STATES[trial.state.name], FAINT)
            right.plot(
                *zip(*course, strict=True),
                color=INK if first else colour,
                alpha=1.0 if first else 0.45,
                linewidth=2.0 if first else 1.0,
                marker="." if len(course) == 1 else None,
            )
    right.set(title="Courses (best in black)", xlabel="epoch", ylabel="validation score")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def _importances_figure(found: Mapping[str, float]) -> Figure:
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.barh(list(found)[::-1], list(found.values())[::-1], color=MUTED)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(title="Share of the scores' variation", xlim=(0, 1.1 * max(found.values())))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _record_of(run: Path) -> dict[str, Any]:
    return Bundle(run).record or {}


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
