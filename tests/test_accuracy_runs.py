"""The script of all trainings, with its smallest profile on phantoms."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from busi_monai.files import read_json
from busi_monai.phantoms import write_phantom_dataset

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "accuracy_runs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy_runs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_complete_commands_are_left_out(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "COMMAND", ["true"])
    assert script.main([str(tmp_path), str(tmp_path / "out"), "--steps", "folds", "release"]) == 0
    done = (tmp_path / "out" / "done.txt").read_text("utf-8").splitlines()
    assert [line.split()[0] for line in done] == [
        "cross-validate",
        "train",
        "evaluate",
        "calibrate",
    ]
    monkeypatch.setattr(script, "COMMAND", ["false"])
    assert script.main([str(tmp_path), str(tmp_path / "out"), "--steps", "folds"]) == 0
    assert script.main([str(tmp_path), str(tmp_path / "out"), "--steps", "seeds"]) == 1


@pytest.mark.slow
def test_the_smallest_profile_runs_on_phantoms(script: ModuleType, tmp_path: Path) -> None:
    layouts = {**script.FOLDERS, "breast_lesions_usg": script.BREAST}
    for seed, (layout, folder) in enumerate(layouts.items()):
        write_phantom_dataset(tmp_path / folder, cases=18, seed=seed, size=(60, 80), layout=layout)
    words = [str(tmp_path), str(tmp_path / "out"), "--profile", "smoke", "--steps"]
    assert script.main([*words, "prepare", "folds", "busi_alone"]) == 0
    assert read_json(tmp_path / "out" / "out_of_fold" / "metrics.json")["images"] > 40
    unseen = read_json(tmp_path / "out" / "busi_alone" / "bus_bra" / "metrics.json")
    assert unseen["images"] > 10
