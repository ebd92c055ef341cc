"""Trainings in processes that torchrun starts, against the same training in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from busi_monai.bundle.shipped import find_bundle
from busi_monai.files import read_json

CONFIGS = find_bundle() / "configs"

ALIKE = """
image_size: [32, 32]
batch_size: 6
encoder: unet
encoder_options: {widths: [4, 8], norm: instance}
decoder_options: {norm: instance}
learning_rate: 0.01
ema_decay: 0.9
tta_flip: false
precision: fp32
device_name: cpu
dropout: 0.0
augmentation_options: {flip_probability: 0, affine_probability: 0, grey_probability: 0,
  speckle_probability: 0, noise_probability: 0}
"""
"""What makes processes compute what one does: no batch normalisation, nothing drawn per process."""

Torchrun = Callable[..., subprocess.Popen]


@pytest.fixture
def torchrun(tmp_path: Path, phantom_prepared: Path):
    """``torchrun(processes, out, max_epochs=2, …)`` trains by the bundle's configurations."""
    started: list[subprocess.Popen] = []
    config = tmp_path / "alike.yaml"
    config.write_text(ALIKE, encoding="utf-8")

    def start(processes: int, out: str, **settings: object) -> subprocess.Popen:
        files = [CONFIGS / "train.yaml", CONFIGS / "multi_gpu_train.yaml", config]
        given = {"dataset_dir": phantom_prepared, "output_dir": out, "max_epochs": 2, **settings}
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc_per_node={processes}"]
        process = subprocess.Popen(
            [*launcher, "-m", "monai.bundle", "run", "training",
             "--config_file", str([str(path) for path in files]),
             *(word for key, value in given.items() for word in (f"--{key}", str(value)))],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=60)


def done(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


def history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv").drop(columns="seconds")


@pytest.mark.slow
def test_two_processes_have_the_course_of_one(torchrun: Torchrun, tmp_path: Path) -> None:
    for processes in (1, 2):
        done(torchrun(processes, f"run_{processes}", max_epochs=4))
    one, two = history(tmp_path / "run_1"), history(tmp_path / "run_2")
    losses = [name for name in one if "loss" in name or name == "lr"]
    print((one - two).abs().max())
    pd.testing.assert_frame_equal(one[losses], two[losses], rtol=0, atol=1e-4)
