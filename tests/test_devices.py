from __future__ import annotations

import pytest
import torch

from busi_monai.devices import DeviceChoice, choose_device, choose_precision
from busi_monai.errors import InputError


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


def test_auto_precision_on_a_cpu_is_bf16() -> None:
    for device in ("cpu", DeviceChoice("cpu", "")):
        choice = choose_precision("auto", device)
        assert choice.name == "bf16"
        assert choice.reason
        assert not choice.needs_scaler


@pytest.mark.parametrize(("has_bf16", "name"), [(True, "bf16"), (False, "fp16")])
def test_auto_precision_on_a_gpu_is_what_it_has(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    choice = choose_precision("auto", "cuda:0")
    assert choice.name == name
    assert choice.needs_scaler == (name == "fp16")


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_precision_that_is_asked_for_is_taken(name: str) -> None:
    assert choose_precision(name, "cuda").name == name


def test_fp16_on_a_cpu_and_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        choose_precision("fp16", "cpu")
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        choose_precision("fp8", "cpu")
