"""Which device and which precision a command uses, and why."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass

from busi_monai.errors import InputError

__all__ = [
    "DeviceChoice",
    "PrecisionChoice",
    "check_device",
    "choose_device",
    "choose_graph_precision",
    "choose_precision",
    "cpu_instructions",
    "launched_by_torchrun",
    "local_rank",
]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")

GAIN = 1.2
"""How many times as fast bf16 has to be where its speed is measured."""

_STEP_TIMES = "BUSI_MONAI_STEP_TIMES"

_TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class DeviceChoice:
    """A torch device name with the reason it was taken, for the terminal and ``run.json``."""

    name: str
    reason: str

    @property
    def type(self) -> str:
        """``"cpu"`` or ``"cuda"``."""
        return self.name.split(":")[0]


@dataclass(frozen=True)
class PrecisionChoice:
    """``fp32``, ``bf16`` or ``fp16`` with the reason; only fp16 needs a gradient scaler."""

    name: str
    reason: str

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients would underflow without loss scaling."""
        return self.name == "fp16"


def check_device(requested: str) -> None:
    """Raise an ``InputError`` for what is no name of a device."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", requested):
        raise InputError(f"unknown device {requested!r}; expected auto, cpu, cuda or cuda:N")


def launched_by_torchrun() -> bool:
    """Return whether this is one of the processes of a training that ``torchrun`` starts."""
    return all(name in os.environ for name in _TORCHRUN)


def local_rank() -> int:
    """Return the number of this process among those of ``torchrun`` on this machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if launched_by_torchrun() else 0


def choose_device(requested: str = "auto") -> DeviceChoice:
    """Return the device to use.

    Args:
        requested: ``auto`` (CUDA where torch sees one, else the CPU), ``cpu``, ``cuda`` or
            ``cuda:N``. Under ``torchrun``, ``auto`` and ``cuda`` are the GPU with the process's
            number on its machine.

    Raises:
        InputError: if CUDA is asked for and is not there, or has fewer devices than processes:
            never a silent fall-back.
    """
    check_device(requested)
    if requested == "cpu":
        return DeviceChoice("cpu", "asked for")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = local_rank()
    if requested in {"auto", "cuda"} and 0 < count <= own:
        raise InputError(
            f"process {own} of this machine has no GPU of its own, torch sees {count}; start as "
            "many processes as there are GPUs (torchrun --nproc_per_node), or use --device cpu"
        )
    if requested == "auto":
        if count:
            seen = f"auto: torch sees {count} CUDA {'device' if count == 1 else 'devices'}"
            return DeviceChoice(f"cuda:{own}", seen)
        return DeviceChoice("cpu", "auto: torch sees no CUDA device")
    index = requested.partition(":")[2]
    if not count:
        raise InputError(
            f"device {requested!r} was asked for, but torch {torch.__version__} sees no CUDA "
            "device; use --device cpu or install a CUDA build of torch"
        )
    if int(index or own) >= count:
        raise InputError(f"device {requested!r} was asked for, but torch sees only {count}")
    return DeviceChoice(f"cuda:{index or own}", "asked for")


def choose_precision(requested: str, device: DeviceChoice | str) -> PrecisionChoice:
    """Return the arithmetic for training or predicting on a device.

    ``auto`` is the fastest that the hardware computes in by itself: on a CPU bf16 where it has
    instructions for it (AVX512_BF16, AMX), else fp32; where torch cannot tell, or on Arm, one
    convolution step is timed in both, and bf16 has to be 1.2 times as fast. On a GPU bf16 where
    that device has it, else fp16 with a gradient scaler.

    Raises:
        InputError: for an unknown name, or fp16 on a CPU, where it is slow and underflows.
    """
    name = device if isinstance(device, str) else device.name
    if requested not in PRECISIONS:
        raise InputError(
            f"unknown precision {requested!r}; expected one of {', '.join(PRECISIONS)}"
        )
    if requested == "fp16" and name == "cpu":
        raise InputError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if requested != "auto":
        return PrecisionChoice(requested, "asked for")
    if name == "cpu":
        return _cpu_precision()
    import torch

    with torch.cuda.device(name):  # torch answers for the current device
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    if native:
        return PrecisionChoice("bf16", f"auto: {name} computes in bf16")
    return PrecisionChoice("fp16", f"auto: {name} has no bf16 of its own")


def choose_graph_precision(requested: str, engine: str) -> PrecisionChoice:
    """Return the arithmetic in which an exported graph is computed: fp32.

    In bf16, positions within the image are too coarse: OpenVINO's masks had a Dice of 0.97 with
    those of fp32.

    Raises:
        InputError: for another name.
    """
    if requested not in PRECISIONS:
        raise InputError(
            f"unknown precision {requested!r}; expected one of {', '.join(PRECISIONS)}"
        )
    if requested in {"auto", "fp32"}:
        return PrecisionChoice("fp32", "asked for" if requested == "fp32" else "auto: of a graph")
    raise InputError(f"engine {engine} computes in fp32; use --engine torch for {requested}")


def cpu_instructions() -> list[str]:
    """Return the widest vector instructions that torch uses here, and those for bf16.

    Such as ``["AVX2"]`` or ``["AVX512", "AVX512_BF16"]``.
    """
    import torch

    widest = torch.backends.cpu.get_cpu_capability()
    return [widest, *(_bf16_instructions() or [])]


def _cpu_precision() -> PrecisionChoice:
    instructions = _bf16_instructions()
    if instructions:
        return PrecisionChoice("bf16", f"auto: the CPU computes in bf16 ({instructions[0]})")
    if instructions is not None:
        return PrecisionChoice(
            "fp32", f"auto: the CPU has no bf16 instructions ({cpu_instructions()[0]})"
        )
    fp32, bf16 = _step_times()
    name = "bf16" if fp32 >= GAIN * bf16 else "fp32"
    times = f"one step takes {1000 * fp32:.1f} ms in fp32, {1000 * bf16:.1f} ms in bf16"
    return PrecisionChoice(name, f"auto: {times}")


def _bf16_instructions() -> list[str] | None:
    """Return the CPU's instructions for bf16; ``None`` where only a measurement can tell.

    Which of them oneDNN takes also depends on the vectors that torch was limited to.
    """
    import torch

    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return None  # Arm may have bf16 and still gain nothing by torch's kernels
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return []
    try:
        found = {
            "AMX": torch.cpu._is_amx_tile_supported(),
            "AVX512_BF16": torch.cpu._is_avx512_bf16_supported(),
        }
    except AttributeError:  # private names, which a later torch may drop
        return None
    return [name for name, there in found.items() if there]


def _step_times() -> tuple[float, float]:
    """Return the seconds of a convolution step, forward and backward, in fp32 and in bf16.

    Measured once; processes that this one starts take over its figures, so that all trainings of
    an experiment decide alike.
    """
    if _STEP_TIMES not in os.environ:
        os.environ[_STEP_TIMES] = ",".join(map(str, (_time_step(False), _time_step(True))))
    fp32, bf16 = map(float, os.environ[_STEP_TIMES].split(","))
    return fp32, bf16


def _time_step(reduced: bool) -> float:
    import torch

    layout = torch.channels_last
    image = torch.ones(4, 64, 40, 40).to(memory_format=layout).requires_grad_()
    weight = torch.ones(64, 64, 3, 3).to(memory_format=layout).requires_grad_()
    seconds = []
    for _ in range(6):  # the first makes the kernels
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            torch.nn.functional.conv2d(image, weight, padding=1).float().mean().backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
