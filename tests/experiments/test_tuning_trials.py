"""What is kept of a search's trials, with runs made up here instead of trainings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from busi_monai.errors import InputError
from busi_monai.experiments.tuning import _clear_up
from busi_monai.experiments.tuning_outputs import write_overview
from busi_monai.experiments.tuning_plan import TuningPlan
from busi_monai.experiments.tuning_space import parse_space
from busi_monai.experiments.tuning_study import Claim, TrialStudy
from busi_monai.files import write_json

pytest.importorskip("optuna", reason="the extra tune is not installed")

SPACE = parse_space({"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}})


def claim_and_train(plan: TuningPlan, study: TrialStudy, **trained: Any) -> Claim:
    claim = study.claim(100)
    assert claim is not None
    run = plan.run(claim.number)
    for name in ("models", "configs"):
        (run / name).mkdir(parents=True)
    (run / "models" / "model.pt").touch()
    text = yaml.safe_dump({"learning_rate": 0.1, **trained})
    (run / "configs" / "train.yaml").write_text(text, encoding="utf-8")
    return claim


def begin(out: Path, **configuration: Any) -> tuple[TuningPlan, TrialStudy]:
    plan = TuningPlan((), out, SPACE)
    write_json(out / "tuning.json", {"configuration": configuration})
    return plan, plan.study()


def test_a_better_trial_told_by_another_process_keeps_its_weights(tmp_path: Path) -> None:
    plan, study = begin(tmp_path)
    for score in (0.3, 0.5):
        study.study.tell(claim_and_train(plan, study).trial, score)
    other = plan.study()
    claim = claim_and_train(plan, other)

    class Overtaken(TrialStudy):
        """Another process tells its trial right after the first look at the record."""

        def trials(self) -> list[Any]:
            found = super().trials()
            if found[claim.number].state.name == "RUNNING":
                other.study.tell(claim.trial, 0.9)
            return found

    _clear_up(plan, Overtaken(tmp_path, SPACE))
    assert weights_kept(tmp_path) == ["0001", "0002"]
    _clear_up(plan, study)
    assert weights_kept(tmp_path) == ["0002"]


def weights_kept(out: Path) -> list[str]:
    return sorted(path.parents[1].name for path in out.glob("trials/*/models/model.pt"))


def test_the_best_overlay_holds_sections_and_nothing_of_the_machine(tmp_path: Path) -> None:
    plan, study = begin(tmp_path, **{"encoder_options::widths": [4, 8], "cache_dir": "/here"})
    trained = {"encoder_options": {"widths": [4, 8], "depth": 2}, "cache_dir": "/here", "seed": 1}
    study.study.tell(claim_and_train(plan, study, **trained).trial, 0.5)
    write_overview(tmp_path, study, plan.run)
    overlay = yaml.safe_load((tmp_path / "best.yaml").read_text(encoding="utf-8"))
    assert overlay == {
        "encoder_options": {"widths": [4, 8], "depth": 2},
        "learning_rate": 0.1,
    }


def test_what_belongs_to_the_machine_may_differ_between_processes(
    tmp_path: Path, phantom_prepared: Path
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("{num_workers: 2, encoder_options::widths: [4, 8]}", encoding="utf-8")

    def plan(**overrides: Any) -> TuningPlan:
        out = tmp_path / "search"
        return TuningPlan((phantom_prepared,), out, SPACE, (overlay,), overrides=overrides)

    plan(cache_dir="/here", device_name="cpu").begin()
    plan(num_workers=0, device_name="cuda").begin()
    kept = plan().identity()["configuration"]
    assert kept == {"encoder_options::widths": [4, 8]}
    with pytest.raises(InputError, match=r"dropout: None, now it is 0\.1"):
        plan(dropout=0.1).begin()


def test_a_fold_of_an_overlay_is_checked_too(tmp_path: Path, phantom_prepared: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("fold: 0", encoding="utf-8")
    with pytest.raises(InputError, match="has no folds"):
        TuningPlan((phantom_prepared,), tmp_path / "search", SPACE, (overlay,)).check()


def test_a_search_goes_on_with_the_masks_that_it_was_begun_with(
    phantom_prepared: Path, corrected_prepared: Path, tmp_path: Path
) -> None:
    one, other = (
        TuningPlan((folder,), tmp_path / "search", SPACE)
        for folder in (phantom_prepared, corrected_prepared)
    )
    assert one.identity() == other.identity()
    one.begin()
    one.begin()
    with pytest.raises(InputError, match=r"begun with other masks of 16 cases: .* Search anew"):
        other.begin()


def test_a_search_is_known_by_what_its_extra_datasets_hold_not_where_they_lie(
    phantom_prepared: Path, other_prepared: Path, tmp_path: Path
) -> None:
    def identity(*prepared: Path, **overrides: Any) -> dict[str, Any]:
        return TuningPlan(prepared, tmp_path / "search", SPACE, overrides=overrides).identity()

    moved = shutil.copytree(other_prepared, tmp_path / "moved")
    one = identity(phantom_prepared, extra_dataset_dir=[str(other_prepared)])
    assert one == identity(phantom_prepared, extra_dataset_dir=str(moved))
    assert one != identity(phantom_prepared)
    assert one != identity(phantom_prepared, other_prepared)
