from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from busi_monai.experiments.processes import run_in_processes, usable_gpus


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("three_gpus")
def test_gpus_are_shared_out_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_gpus("auto") == usable_gpus("cuda") == ["0", "1", "2"]
    assert usable_gpus("cuda:1") == usable_gpus("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8f1,6")
    assert usable_gpus("auto") == ["4", "GPU-8f1", "6"]


def test_without_gpus_none_is_shared_out() -> None:
    if not torch.cuda.is_available():
        assert usable_gpus("auto") == []


SEEN = """
import os, sys, time
from pathlib import Path
path, began = Path(sys.argv[1]), time.monotonic()
path.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while len(list(path.parent.iterdir())) < 2 and time.monotonic() < began + 100:
    time.sleep(0.01)  # until a second call runs beside this one
"""


@pytest.mark.slow
def test_calls_at_once_have_gpus_of_their_own(tmp_path: Path) -> None:
    calls = {name: ([sys.executable, "-c", SEEN, str(tmp_path / name)],) for name in "abc"}
    run_in_processes(subprocess.check_call, calls, jobs=2, gpus=["0", "5", "7"])
    seen = [(tmp_path / name).read_text("utf-8") for name in calls]
    assert {seen[0], seen[1]} == {"0", "5"}
    assert seen[2] in {"0", "5"}
