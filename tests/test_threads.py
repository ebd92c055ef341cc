from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from busi_monai import threads
from busi_monai.threads import (
    WAIT_VARIABLES,
    _hardware_threads,
    _quotas,
    limit_threads,
    prepare_threads,
    share_of_threads,
    usable_cores,
)


def test_no_more_cores_than_the_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from busi_monai.threads import usable_cores; print(usable_cores())"
    if hasattr(os, "sched_setaffinity"):
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert printed.stdout.strip() == b"1"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, [1.5]),
        ("0::/", {"cpu.max": "max 100000"}, []),
        (
            "0::/outer/inner",
            {"outer/cpu.max": "400000 100000", "outer/inner/cpu.max": "max 100000"},
            [4.0],
        ),
        (
            "3:memory:/m\n2:cpu,cpuacct:/docker",
            {
                "cpu,cpuacct/docker/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
            },
            [2.0],
        ),
        (
            "2:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            [],
        ),
    ],
)
def test_the_quota_of_a_container_counts(
    membership: str, files: dict[str, str], cores: list[float], tmp_path: Path
) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert list(_quotas(tmp_path / "membership", tmp_path / "groups")) == cores


def test_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        path = tmp_path / f"cpu{cpu}/topology/thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(siblings)
    assert len({_hardware_threads(cpu, tmp_path) for cpu in range(4)}) == 2
    assert len({_hardware_threads(cpu, tmp_path / "none") for cpu in range(4)}) == 4


def test_waiting_threads_soon_sleep_and_take_the_usable_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    monkeypatch.setattr(sys, "platform", "linux")
    environ: dict[str, str] = {}
    prepare_threads(environ)
    assert environ["OMP_NUM_THREADS"] == "6"
    assert 0 < int(environ["GOMP_SPINCOUNT"]) <= 1000


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"])
def test_the_user_s_own_variables_stay(name: str) -> None:
    environ = {name: "mine"}
    prepare_threads(environ)
    assert environ[name] == "mine"
    if name != "OMP_NUM_THREADS":
        assert set(WAIT_VARIABLES) & environ.keys() == {name}


def test_every_command_prepares_its_threads_before_torch_is_imported() -> None:
    code = (
        "import atexit, os, sys; from busi_monai.cli.main import main; "
        "atexit.register(lambda: print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)); "
        "sys.argv = ['busi-monai', 'train', '--help']; main()"
    )
    environ = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.splitlines()[-1] == "1000 False"


def test_jobs_divide_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert [share_of_threads(jobs) for jobs in (1, 3, 9)] == [8, 2, 1]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)  # of eight logical ones
    assert share_of_threads(2) == 2


def test_a_process_that_has_torch_is_held_to_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    try:
        limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
