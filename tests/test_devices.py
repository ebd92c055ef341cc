from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from busi_monai import devices
from busi_monai.devices import DeviceChoice, _time_step, choose_device, choose_precision
from busi_monai.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_without_a_gpu_auto_is_the_cpu_and_says_why(gpus: int) -> None:
    choice = choose_device()
    assert (choice.name, choice.type) == ("cpu", "cpu")
    assert "no CUDA" in choice.reason


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_with_gpus_auto_is_the_first(gpus: int) -> None:
    choice = choose_device("auto")
    assert (choice.name, choice.type) == ("cuda:0", "cuda")
    assert "2" in choice.reason


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.parametrize(
    ("asked", "name"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_what_is_asked_for_is_taken(gpus: int, asked: str, name: str) -> None:
    assert choose_device(asked).name == name


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.parametrize(
    ("asked", "name"),
    [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")],
)
def test_each_process_of_torchrun_has_its_own_gpu(
    gpus: int, asked: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")  # which alone does not tell of torchrun
    assert choose_device("auto").name == "cuda:0"
    for variable in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
        monkeypatch.setenv(variable, "1")
    assert choose_device(asked).name == name


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused(
    gpus: int, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "2")
    with pytest.raises(InputError, match=r"process 2 of this machine has no GPU .* sees 2"):
        choose_device(asked)


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.parametrize("asked", ["cuda", "cuda:0"])
def test_cuda_never_falls_back_to_the_cpu(gpus: int, asked: str) -> None:
    with pytest.raises(InputError, match=r"no CUDA device.*--device cpu"):
        choose_device(asked)


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_a_gpu_that_is_not_there_is_refused(gpus: int) -> None:
    with pytest.raises(InputError, match="sees only 2"):
        choose_device("cuda:2")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "cuda:-1", "", "cpu:0", "cuda:²", "cuda:"])
def test_an_unknown_device_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match="expected auto, cpu, cuda or cuda:N"):
        choose_device(asked)


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let torch tell what another CPU can do."""

    def tell(machine: str, widest: str, *, bf16: bool = False, amx: bool = False) -> None:
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: widest)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)

    monkeypatch.setenv("BUSI_MONAI_STEP_TIMES", "")  # so that it is as before in the end
    monkeypatch.delenv("BUSI_MONAI_STEP_TIMES")
    return tell


@pytest.mark.parametrize(
    ("ability", "name", "instructions"),
    [
        ({"machine": "x86_64", "widest": "AVX512", "bf16": True}, "bf16", "AVX512_BF16"),
        ({"machine": "AMD64", "widest": "AVX512", "bf16": True, "amx": True}, "bf16", "AMX"),
        ({"machine": "x86_64", "widest": "AVX512"}, "fp32", "AVX512"),
        ({"machine": "x86_64", "widest": "AVX2"}, "fp32", "AVX2"),
        ({"machine": "x86_64", "widest": "AVX2", "bf16": True}, "fp32", "AVX2"),  # torch is limited
        ({"machine": "x86_64", "widest": "DEFAULT"}, "fp32", "DEFAULT"),
    ],
)
def test_auto_precision_on_a_cpu_is_bf16_where_it_computes_in_it(
    cpu: Callable[..., None], ability: dict, name: str, instructions: str
) -> None:
    cpu(**ability)
    for device in ("cpu", DeviceChoice("cpu", "")):
        choice = choose_precision("auto", device)
        assert choice.name == name
        assert f"({instructions})" in choice.reason
        assert not choice.needs_scaler


@pytest.mark.parametrize(
    ("times", "name"), [("0.012,0.009", "bf16"), ("0.010,0.009", "fp32"), ("0.01,0.18", "fp32")]
)
def test_where_torch_cannot_tell_a_step_is_timed(
    cpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch, times: str, name: str
) -> None:
    cpu("aarch64", "SVE256")
    seconds = iter(map(float, times.split(",")))
    monkeypatch.setattr(devices, "_time_step", lambda reduced: next(seconds))
    choices = [choose_precision("auto", "cpu") for _ in range(2)]  # the second asks for no time
    assert choices[0] == choices[1]
    assert choices[0].name == name
    assert f"{1000 * float(times.split(',', maxsplit=1)[0]):.1f} ms in fp32" in choices[0].reason
    # what this process starts decides alike
    code = "from busi_monai.devices import _step_times; print(_step_times())"
    words = [sys.executable, "-c", code]
    printed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert printed.stdout.strip() == str(tuple(map(float, times.split(","))))


def test_a_torch_without_the_private_names_is_timed(
    cpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu("x86_64", "AVX512")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.setenv("BUSI_MONAI_STEP_TIMES", "0.02,0.01")
    assert choose_precision("auto", "cpu").name == "bf16"


def test_a_step_is_timed_in_both_precisions_without_a_random_draw() -> None:
    state = torch.get_rng_state()
    assert all(0 < _time_step(reduced) < 10 for reduced in (False, True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("has_bf16", "name"), [(True, "bf16"), (False, "fp16")])
def test_auto_precision_on_a_gpu_is_what_the_chosen_one_has(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, name: str
) -> None:
    current = ["cuda:0"]

    @contextlib.contextmanager
    def device(chosen: str) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or (has_bf16 and current[-1] == "cuda:1")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    choice = choose_precision("auto", DeviceChoice("cuda:1", ""))
    assert choice.name == name
    assert "cuda:1" in choice.reason
    assert choice.needs_scaler == (name == "fp16")


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_precision_that_is_asked_for_is_taken(name: str) -> None:
    assert choose_precision(name, "cuda").name == name


def test_fp16_on_a_cpu_and_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        choose_precision("fp16", "cpu")
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        choose_precision("fp8", "cpu")
