"""A search's history, its trials' courses and what mattered, as Optuna draws them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from busi_monai.plots.canvas import save_figure

if TYPE_CHECKING:
    from optuna.study import Study

__all__ = ["draw_search"]


def draw_search(out: Path, study: Study, seed: int = 0) -> dict[str, float]:
    """Draw ``history.png``, ``courses.png`` and ``importances.png`` where there is enough to tell.

    The importances are those of fANOVA (Hutter et al., 2014) over the complete trials; with fewer
    than four different scores nothing can be told.

    Returns:
        The share of the scores' variation that each key accounts for, largest first; they sum to 1.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.visualization import matplotlib as plots

    trials = study.get_trials(deepcopy=False)
    scores = {trial.value for trial in trials if trial.state.name == "COMPLETE"}
    found: dict[str, float] = {}
    if scores:
        _draw(out / "history.png", lambda: plots.plot_optimization_history(study))
    if any(trial.intermediate_values for trial in trials):
        _draw(out / "courses.png", lambda: plots.plot_intermediate_values(study))
    if len(scores) >= 4:
        evaluator = FanovaImportanceEvaluator(seed=seed)
        found = get_param_importances(study, evaluator=evaluator)
        _draw(
            out / "importances.png",
            lambda: plots.plot_param_importances(study, evaluator=evaluator),
        )
    return {key: float(share) for key, share in found.items()}


def _draw(path: Path, plot: Callable[[], Any]) -> None:
    from matplotlib import pyplot

    with mpl.rc_context(), warnings.catch_warnings():  # Optuna sets a style for the whole process
        warnings.simplefilter("ignore")
        figure = plot().figure
        pyplot.close(figure)
        save_figure(figure, path)
