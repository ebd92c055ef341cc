"""Which device and which precision a command uses, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass

from busi_monai.errors import InputError

__all__ = ["DeviceChoice", "PrecisionChoice", "choose_device", "choose_precision"]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


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


def choose_device(requested: str = "auto") -> DeviceChoice:
    """Return the device to use.

    Args:
        requested: ``auto`` (CUDA where torch sees one, else the CPU), ``cpu``, ``cuda`` or
            ``cuda:N``.

    Raises:
        InputError: if CUDA is asked for and is not there: never a silent fall-back.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "auto":
        if count:
            return DeviceChoice(
                "cuda:0", f"auto: torch sees {count} CUDA {'device' if count == 1 else 'devices'}"
            )
        return DeviceChoice("cpu", "auto: torch sees no CUDA device")
    if requested == "cpu":
        return DeviceChoice("cpu", "asked for")
    index = requested.partition(":")[2]
    if not re.fullmatch(r"cuda(:[0-9]+)?", requested):
        raise InputError(f"unknown device {requested!r}; expected auto, cpu, cuda or cuda:N")
    if not count:
        raise InputError(
            f"device {requested!r} was asked for, but torch {torch.__version__} sees no CUDA "
            "device; use --device cpu or install a CUDA build of torch"
        )
    if int(index or 0) >= count:
        raise InputError(f"device {requested!r} was asked for, but torch sees only {count}")
    return DeviceChoice(f"cuda:{index or 0}", "asked for")


def choose_precision(requested: str, device: DeviceChoice | str) -> PrecisionChoice:
    """Return the arithmetic for training on a device.

    ``auto`` is bf16 on a CPU (1.5–5 times as fast as fp32 there) and on a GPU that has it, fp16
    with a scaler on older GPUs.

    Raises:
        InputError: for an unknown name, or fp16 on a CPU, where it is slow and underflows.
    """
    kind = device.split(":")[0] if isinstance(device, str) else device.type
    if requested not in PRECISIONS:
        raise InputError(
            f"unknown precision {requested!r}; expected one of {', '.join(PRECISIONS)}"
        )
    if requested == "fp16" and kind == "cpu":
        raise InputError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if requested != "auto":
        return PrecisionChoice(requested, "asked for")
    if kind == "cpu":
        return PrecisionChoice("bf16", "auto: bf16 autocast is the fastest on a CPU")
    import torch

    if torch.cuda.is_bf16_supported():
        return PrecisionChoice("bf16", "auto: the GPU has bf16")
    return PrecisionChoice("fp16", "auto: the GPU has no bf16")
