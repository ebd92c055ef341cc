"""The record of a search, with scores made up here instead of trainings."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from busi_monai.errors import InputError
from busi_monai.experiments.tuning_space import parse_space
from busi_monai.experiments.tuning_study import Claim, TrialStudy, best_trial

pytest.importorskip("optuna", reason="the extra tune is not installed")

SPACE = parse_space(
    {
        "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
        "widths": {"choices": [[4, 8], [8, 16]]},
        "patience": {"low": 1, "high": 9},
    }
)


def score(parameters: dict[str, Any]) -> float:
    """Return a score that is highest at a learning rate of 0.01 with the widths [8, 16]."""
    return float(parameters["widths"][0]) / 8 - abs(math.log10(parameters["learning_rate"]) + 2)


def search(folder: Path, total: int, seed: int = 0) -> TrialStudy:
    study = TrialStudy(folder, SPACE, seed=seed)
    while (claim := study.claim(total)) is not None:
        study.study.tell(claim.trial, score(claim.parameters))
        claim.release()
    return study


def parameters_of(study: TrialStudy) -> list[dict[str, Any]]:
    return [study.space.decode(trial.params) for trial in study.trials()]


def test_an_interrupted_search_proposes_what_a_whole_one_does(tmp_path: Path):
    whole = parameters_of(search(tmp_path / "whole", 16))
    for total in (3, 12, 16):
        parts = parameters_of(search(tmp_path / "parts", total))
    assert parts == whole
    assert len({values["learning_rate"] for values in whole}) == 16
    assert parameters_of(search(tmp_path / "other", 16, seed=1)) != whole


def test_the_search_finds_the_better_region(tmp_path: Path):
    study = search(tmp_path, 40)
    best = best_trial(study.trials())
    assert best is not None and best.value == max(map(score, parameters_of(study)))
    later = [score(values) for values in parameters_of(study)]
    assert sum(later[-10:]) > sum(later[:10])  # the first ten are drawn blindly


def test_a_trial_is_run_by_one_at_a_time(tmp_path: Path):
    one, other = TrialStudy(tmp_path, SPACE), TrialStudy(tmp_path, SPACE)
    first, second = one.claim(2), other.claim(2)
    assert first is not None and second is not None
    assert (first.number, second.number) == (0, 1)
    assert one.claim(2) is None and other.claim(2) is None
    first.release()  # as the system does when a process ends
    continued = other.claim(2)
    assert continued is not None
    assert (continued.number, continued.parameters) == (0, first.parameters)
    other.study.tell(continued.trial, 0.5)
    continued.release()
    assert one.claim(2) is None
    assert [trial.state.name for trial in one.trials()] == ["COMPLETE", "RUNNING"]


def test_a_killed_process_frees_its_trial(tmp_path: Path):
    code = """
import os, signal, sys
from pathlib import Path
from tests_space import SPACE
from busi_monai.experiments.tuning_study import TrialStudy
claim = TrialStudy(Path(sys.argv[1]), SPACE).claim(1)
print(claim.parameters["learning_rate"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "tests_space.py").write_text(
        "from busi_monai.experiments.tuning_space import parse_space\n"
        f"SPACE = parse_space({SPACE.as_dict()!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "search")],
        capture_output=True, text=True, check=False, env=environment, timeout=100,
    )  # fmt: skip
    assert ended.returncode != 0 and ended.stdout, ended.stderr
    study = TrialStudy(tmp_path / "search", SPACE)
    claim = study.claim(1)
    assert claim is not None and claim.number == 0
    assert claim.parameters["learning_rate"] == float(ended.stdout)


def test_what_was_not_yet_proposed_is_proposed_later(tmp_path: Path):
    study = TrialStudy(tmp_path, SPACE)
    trial = study.study.ask()  # and killed after the first of three values
    trial.suggest_float("learning_rate", 1e-4, 1.0, log=True)
    claim = study.claim(1)
    assert claim is not None and claim.number == 0
    assert claim.parameters["learning_rate"] == trial.params["learning_rate"]
    assert set(claim.parameters) == set(SPACE.parameters)


def test_a_process_that_dies_in_the_same_epoch_is_given_up(tmp_path: Path):
    study = TrialStudy(tmp_path, SPACE)

    def interrupted(epochs: int) -> Claim:
        claim = study.claim(1)
        assert claim is not None
        for epoch in range(1, epochs + 1):
            if epoch not in study.trials()[0].intermediate_values:
                claim.trial.report(0.5, epoch)
        claim.release()
        return claim

    assert not study.died_too_often(interrupted(0))
    assert not study.died_too_often(interrupted(1))
    assert [study.died_too_often(interrupted(epochs)) for epochs in (2, 3, 4)] == [False] * 3
    assert [study.died_too_often(interrupted(4)) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(("pruner", "pruned"), [("median", True), ("none", False)])
def test_a_trial_below_the_median_is_pruned_after_the_warmup(
    tmp_path: Path, pruner: str, pruned: bool
):
    study = TrialStudy(tmp_path, SPACE, pruner=pruner, warmup=3)
    for number in range(6):
        claim = study.claim(6)
        assert claim is not None
        value = 0.9 if number < 5 else 0.1
        found = []
        for epoch in range(1, 5):
            claim.trial.report(value, epoch)
            found.append(claim.trial.should_prune())
        study.study.tell(claim.trial, value)
        claim.release()
    assert found == [False, False, pruned, pruned]


def test_hyperband_takes_a_study(tmp_path: Path):
    study = TrialStudy(tmp_path, SPACE, pruner="hyperband", warmup=1)
    claim = study.claim(1)
    assert claim is not None
    claim.trial.report(0.1, 1)
    assert claim.trial.should_prune() in {True, False}
    with pytest.raises(InputError, match="unknown pruner 'mean'"):
        TrialStudy(tmp_path, SPACE, pruner="mean")


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path):
    before = parameters_of(search(tmp_path, 3))
    with (tmp_path / "study.journal").open("a", encoding="utf-8") as journal:
        journal.write('{"op_code":4,"tri')
    assert parameters_of(search(tmp_path, 3)) == before
    assert len(parameters_of(search(tmp_path, 4))) == 4
