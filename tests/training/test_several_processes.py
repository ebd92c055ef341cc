"""Trainings in processes that torchrun starts, against the same training in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from busi_monai.bundle.shipped import find_bundle
from busi_monai.files import read_json

CONFIGS = find_bundle() / "configs"

ALIKE = """
image_size: [32, 32]
max_epochs: 6
batch_size: 2
encoder: unet
encoder_options: {widths: [4, 8], norm: instance}
decoder_options: {norm: instance}
weigh_classes: true
learning_rate: 0.001
ema_decay: 0.9
tta_flip: false
precision: fp32
dropout: 0.0
augmentation_options: {flip_probability: 0, affine_probability: 0, grey_probability: 0,
  speckle_probability: 0, noise_probability: 0}
"""
"""What makes processes compute what one does: no batch normalisation, nothing drawn per process."""

Torchrun = Callable[..., subprocess.Popen]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Torchrun]:
    """``start(processes, *words)`` starts ``python -m`` in one process, or in those of torchrun."""
    started: list[subprocess.Popen] = []

    def begin(processes: int, *words: object) -> subprocess.Popen:
        several = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
        command = [sys.executable, "-m", *(several if processes > 1 else []), *map(str, words)]
        started.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=60)


@pytest.fixture
def monai(start: Torchrun, tmp_path: Path, phantom_prepared: Path) -> Torchrun:
    """``monai(processes, out)`` trains by the bundle's configurations."""
    config = tmp_path / "alike.yaml"
    config.write_text(ALIKE, encoding="utf-8")
    several = [CONFIGS / "multi_gpu_train.yaml"]

    def train(processes: int, out: str) -> subprocess.Popen:
        files = [CONFIGS / "train.yaml", *(several if processes > 1 else []), config]
        return start(
            processes, "monai.bundle", "run", "training", "--config_file", [*map(str, files)],
            "--dataset_dir", phantom_prepared, "--output_dir", out, "--device_name", "cpu",
        )  # fmt: skip

    return train


def output(process: subprocess.Popen, *, code: int = 0) -> str:
    text = process.communicate(timeout=300)[0]
    assert process.returncode == code, text[-3000:]
    return text


def history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv").drop(columns="seconds")


def assert_same_course(one: Path, other: Path) -> None:
    tables = history(one), history(other)
    losses = [name for name in tables[0] if "loss" in name or name == "lr"]
    pd.testing.assert_frame_equal(*(table[losses] for table in tables), rtol=0, atol=1e-4)
    # a pixel may lie on the other side of the threshold
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=5e-3)


def kill_process(parent: int, rank: int) -> None:
    """Kill the process of a rank that torchrun has started."""
    (child,) = (
        each
        for each in Path("/proc").glob("[0-9]*/environ")
        if f"\nPPid:\t{parent}\n" in each.with_name("status").read_text()
        and f"\0RANK={rank}\0" in f"\0{each.read_text()}\0"
    )
    os.kill(int(child.parent.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="finds processes in /proc")
def test_two_processes_have_the_course_of_one(
    monai: Torchrun, start: Torchrun, phantom_prepared: Path, tmp_path: Path
) -> None:
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    output(monai(1, "one"))
    output(monai(2, "two"))
    assert_same_course(one, two)
    assert len([*(two / "tensorboard").iterdir()]) == 1
    assert len([*(two / "validation").iterdir()]) == len([*(one / "validation").iterdir()])

    process, rows = monai(2, "killed"), killed / "history.csv"
    while not rows.is_file() or len(rows.read_text(encoding="utf-8").splitlines()) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    kill_process(process.pid, rank=1)
    assert "Signal 9 (SIGKILL)" in output(process, code=1)
    assert not (killed / "run.json").exists()
    output(start(1, "busi_monai", "train", phantom_prepared, "--out", killed, "--resume"))
    assert_same_course(one, killed)
    sessions = read_json(killed / "run.json")["sessions"]
    assert [session.get("processes") for session in sessions] == [2, None]


@pytest.mark.slow
def test_a_training_goes_on_in_two_processes_and_stops_early_in_both(
    start: Torchrun, phantom_prepared: Path, tmp_path: Path
) -> None:
    (tmp_path / "alike.yaml").write_text(ALIKE, encoding="utf-8")
    train = ["busi_monai", "train", phantom_prepared, "--out", "run", "--device", "cpu"]
    given = ["--config", "alike.yaml", "--set", "lr_schedule=constant", "--set", "learning_rate=0"]
    output(start(1, *train, *given, "--epochs", "1"))
    refused = output(start(2, *train, *given), code=1)
    assert refused.count("run is not empty; choose another folder") == 2
    told = output(start(2, *train, "--resume", "--epochs", "9", "--patience", "2"))
    assert told.count("Trained") == 1
    record = read_json(tmp_path / "run" / "run.json")
    assert 3 <= record["epochs"] < 9
    assert [session.get("processes") for session in record["sessions"]] == [None, 2]
    table = history(tmp_path / "run")
    assert len(table) == record["epochs"]
    # the weights are still: both processes together measure what the first one had measured alone
    figures = table.filter(regex="^val_")
    assert figures.notna().all(axis=None) and (figures == figures.iloc[0]).all(axis=None)
