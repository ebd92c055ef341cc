"""Mixed precision on CPU and GPU alike.

MONAI's engines know ``torch.autocast("cuda")`` only. An engine calls its inferer for every forward
pass, in training as in validation: so the autocast lives in an inferer, and works on both devices.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

__all__ = ["AutocastInferer"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class AutocastInferer(Inferer):
    """Run the network under autocast, in the memory layout it is fastest in, and return float32.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16`` (see ``busi_monai.devices.choose_precision``).
        channels_last: bring the input to NHWC, which CPU and GPU convolutions in half precision
            prefer; the network should be in ``torch.channels_last`` as well.
        inner: how the network is called, by default once.
    """

    def __init__(
        self, precision: str = "fp32", channels_last: bool = True, inner: Inferer | None = None
    ) -> None:
        if precision != "fp32" and precision not in _DTYPES:
            raise ValueError(f"precision must be fp32, bf16 or fp16, got {precision!r}")
        self.precision = precision
        self.channels_last = channels_last
        self.inner = SimpleInferer() if inner is None else inner

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output: each tensor of a dict, or the tensor, in float32."""
        image = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        if self.channels_last and image.ndim == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        reduced = _DTYPES.get(self.precision)
        kind = image.device.type
        with torch.autocast(kind, dtype=reduced) if reduced else contextlib.nullcontext():
            outputs = self.inner(image, network, *args, **kwargs)
        return _float32(outputs)


def _float32(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return {name: _float32(value) for name, value in outputs.items()}
    return [_float32(value) for value in outputs]
