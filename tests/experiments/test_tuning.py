from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from busi_monai.cli.main import main

pytest.importorskip("optuna", reason="the extra tune is not installed")

SPACE = """
learning_rate: {low: 1e-3, high: 0.1, log: true}
dropout: {low: 0.0, high: 0.5, step: 0.1}
encoder_options#widths: {choices: [[4, 8], [6, 12]]}
"""

Tune = Callable[..., Result]


def words_of(
    prepared: Path, out: Path, space: Path, config: Path, trials: int, *more: str
) -> list[str]:
    return [
        "tune", str(prepared), "--space", str(space), "--out", str(out), "--config", str(config),
        "--trials", str(trials), "--device", "cpu", *more,
    ]  # fmt: skip


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return path


@pytest.fixture
def tune(phantom_prepared: Path, tiny_config: Path, space: Path, tmp_path: Path) -> Tune:
    def run(
        trials: int, *more: str, out: str = "search", prepared: Path = phantom_prepared
    ) -> Result:
        words = words_of(prepared, tmp_path / out, space, tiny_config, trials, *more)
        return CliRunner().invoke(main, words)

    return run


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def outcomes(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(folder)]


def test_a_search_and_its_best_configuration(
    tune: Tune, tmp_path: Path, phantom_prepared: Path
) -> None:
    blind = tmp_path / "blind"  # without the images of the reported part
    shutil.copytree(phantom_prepared, blind)
    for item in json.loads((blind / "datalist.json").read_text("utf-8"))["test"]:
        (blind / item["image"]).unlink()
    result = tune(2, "--pruner", "none", prepared=blind)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "search"
    rows = rows_of(folder)
    assert [row["state"] for row in rows] == ["complete"] * 2
    for row in rows:
        record = json.loads((folder / row["run"] / "run.json").read_text("utf-8"))
        assert float(row["score"]) == pytest.approx(record["best"]["val_score"], abs=1e-6)
        trained = yaml.safe_load((folder / row["run"] / "configs/train.yaml").read_text("utf-8"))
        assert trained["learning_rate"] == float(row["learning_rate"])
        assert trained["encoder_options"]["widths"] == json.loads(row["encoder_options#widths"])
    best = max(rows, key=lambda row: float(row["score"]))
    record = json.loads((folder / "run.json").read_text("utf-8"))
    assert record["best"]["run"] == best["run"]
    assert record["trials"] == {
        "total": 2, "complete": 2, "pruned": 0, "failed": 0, "unfinished": 0,
    }  # fmt: skip
    weights = [path.parent.parent.name for path in folder.glob("trials/*/models/model.pt")]
    assert weights == [Path(best["run"]).name]
    for image in ("history.png", "courses.png"):
        assert (folder / image).read_bytes().startswith(b"\x89PNG")

    again = ["train", str(blind), "--out", str(tmp_path / "again"), "--config"]
    again += [str(folder / "best.yaml"), "--device", "cpu", "-q"]
    assert CliRunner().invoke(main, again).exit_code == 0
    repeated = json.loads((tmp_path / "again" / "run.json").read_text("utf-8"))
    assert repeated["best"]["val_score"] == pytest.approx(float(best["score"]), abs=1e-6)


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped(tune: Tune, tmp_path: Path) -> None:
    assert tune(3).exit_code == 0
    first = outcomes(tmp_path / "search")
    assert tune(1).exit_code == 0  # there are three already
    assert outcomes(tmp_path / "search") == first
    assert tune(4, "--json").exit_code == 0
    assert outcomes(tmp_path / "search")[:3] == first
    assert tune(4, out="at once").exit_code == 0
    assert outcomes(tmp_path / "search") == outcomes(tmp_path / "at once")


def test_another_search_in_the_same_folder_is_refused(tune: Tune, tmp_path: Path) -> None:
    assert tune(1, "--epochs", "1").exit_code == 0
    before = rows_of(tmp_path / "search")
    for more, words in (
        (["--epochs", "2"], ["another configuration", "max_epochs: 1, now it is 2"]),
        (["--epochs", "1", "--seed", "3"], ["another configuration", "seed: None, now it is 3"]),
        (["--epochs", "1", "--pruner", "none"], ["another pruner", "'median', now it is 'none'"]),
    ):
        result = tune(2, *more)
        assert result.exit_code == 2, result.output
        assert all(word in result.output for word in words), result.output
    assert rows_of(tmp_path / "search") == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "dropout=0.1"], "dropout is both fixed and searched"),
        (["--set", "encoder_options={widths: [4]}"], "encoder_options is both fixed and searched"),
        (["--set", "dropuot=0.1"], "unknown configuration key 'dropuot'"),
        (["--fold", "0"], "has no folds"),
        (["--config", "nothing"], "no configuration 'nothing'"),
        (["--model", "nothing"], "no bundle or run 'nothing'"),
    ],
)
def test_wrong_usage_is_refused_before_a_folder_is_made(
    tune: Tune, tmp_path: Path, more: list[str], message: str
) -> None:
    result = tune(1, *more)
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "search").exists()


def test_an_unknown_key_of_the_space_is_named(tune: Tune, tmp_path: Path, space: Path) -> None:
    space.write_text("learning_rat: {low: 0.1, high: 0.2}\n", encoding="utf-8")
    result = tune(1)
    assert result.exit_code == 2 and "unknown configuration key 'learning_rat'" in result.output


def test_a_folder_of_something_else_is_left_alone(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "notes.txt").write_text("mine")
    result = tune(1)
    assert result.exit_code == 2 and "holds no search" in result.output
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["notes.txt"]


def test_a_trial_that_cannot_work_is_listed_and_counted(
    tune: Tune, tmp_path: Path, space: Path
) -> None:
    space.write_text("image_size: {choices: [[32, 32], [33, 33]]}\n", encoding="utf-8")
    result = tune(3, "--epochs", "1")
    rows = rows_of(tmp_path / "search")
    failed = [row for row in rows if row["state"] == "failed"]
    assert len(rows) == 3 and 0 < len(failed) < 3
    assert result.exit_code == 1
    for row in failed:
        assert "divisible by 2" in row["reason"] and row["image_size"] == "[33, 33]"
        assert f"Failed: {row['run']}" in result.stderr


def test_a_hopeless_search_stops(tune: Tune, tmp_path: Path, space: Path) -> None:
    space.write_text("image_size: {choices: [[31, 31], [33, 33]]}\n", encoding="utf-8")
    result = tune(10)
    assert result.exit_code == 1
    assert "the first 3 trials all failed" in result.output and "divisible" in result.output
    assert len(rows_of(tmp_path / "search")) == 3


@pytest.mark.slow
def test_bad_trials_are_ended_early(tune: Tune, tmp_path: Path, space: Path) -> None:
    # steps of 1e-12 leave the network as it was, whose score any training beats
    space.write_text("learning_rate: {choices: [0.05, 1.0e-12]}\n", encoding="utf-8")
    result = tune(9, "--epochs", "3", "--warmup", "1", "--set", "lr_schedule=constant")
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "search")
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned and all(int(row["epochs"]) < 3 for row in pruned)
    assert rows_best(rows)["learning_rate"] == "0.05"
    for row in pruned:
        history = pd.read_csv(tmp_path / "search" / row["run"] / "history.csv")
        assert len(history) == int(row["epochs"])


def rows_best(rows: list[dict[str, str]]) -> dict[str, str]:
    return max(
        (row for row in rows if row["state"] == "complete"), key=lambda row: float(row["score"])
    )


def in_a_process(words: list[str]) -> list[str]:
    code = "from busi_monai.cli.main import main; main(prog_name='busi-monai')"
    return [sys.executable, "-c", code, *words]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_killed_trial_is_continued_with_its_parameters(
    tune: Tune, phantom_prepared: Path, tiny_config: Path, space: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    more = ["--epochs", "30", "--pruner", "none", "-q"]
    words = words_of(phantom_prepared, folder, space, tiny_config, 1, *more)
    process = subprocess.Popen(in_a_process(words), start_new_session=True)
    history = folder / "trials" / "0000" / "history.csv"
    wait_for(lambda: history.is_file() and len(history.read_text().split()) > 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = pd.read_csv(history)
    assert len(done) < 30
    before = yaml.safe_load((history.parent / "configs" / "train.yaml").read_text("utf-8"))
    with (folder / "study.journal").open("a", encoding="utf-8") as journal:
        journal.write('{"op_code": 4, "tri')  # as a crash of the system may leave it

    result = tune(1, *more)
    assert result.exit_code == 0, result.output
    (row,) = rows_of(folder)
    assert row["state"] == "complete" and int(row["epochs"]) == 30
    assert float(row["learning_rate"]) == before["learning_rate"]
    after = pd.read_csv(history)
    assert after["epoch"].tolist() == list(range(1, 31))
    # what was done is not done again: its times are the same, but for an epoch not yet saved
    assert after["seconds"][: len(done) - 1].tolist() == done["seconds"][:-1].tolist()
    sessions = json.loads((history.parent / "run.json").read_text("utf-8"))["sessions"]
    assert [session.get("interrupted", False) for session in sessions] == [True, False]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_two_workers_killed_and_resumed_lose_no_trial(
    phantom_prepared: Path, tiny_config: Path, space: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    more = ["--epochs", "6", "--jobs", "2", "--warmup", "2", "-q"]
    words = words_of(phantom_prepared, folder, space, tiny_config, 5, *more)
    proposed: dict[str, str] = {}
    for least in (1, 2):  # killed twice: once some trials are through
        process = subprocess.Popen(in_a_process(words), start_new_session=True)

        def running(least: int = least) -> bool:
            histories = list(folder.glob("trials/*/history.csv"))
            through = len(list(folder.glob("trials/*/run.json")))
            return through >= least and len(histories) > through

        wait_for(running, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for config in folder.glob("trials/*/configs/train.yaml"):
            rate = repr(yaml.safe_load(config.read_text("utf-8"))["learning_rate"])
            assert proposed.setdefault(config.parent.parent.name, rate) == rate
    finished = {
        path.parent.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.glob("trials/*/run.json")
    }
    done = subprocess.run(
        in_a_process(words), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(folder)
    assert [row["trial"] for row in rows] == [str(number) for number in range(5)]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert len(list((folder / "trials").iterdir())) == 5
    for name, rate in proposed.items():
        assert rows[int(name)]["learning_rate"] == rate
    for name, (modified, content) in finished.items():
        path = folder / "trials" / name / "run.json"
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (modified, content)
    for row in rows:
        epochs = pd.read_csv(folder / row["run"] / "history.csv")["epoch"].tolist()
        assert epochs == list(range(1, len(epochs) + 1))
        assert row["state"] == "pruned" or len(epochs) == 6
