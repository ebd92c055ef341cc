"""The table of all encoders in ``docs/networks.md``: parameters and FLOPs at defaults."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from table_cells import markdown

from busi_monai.errors import InputError
from busi_monai.networks import ENCODERS, MultiTaskUNet, network_cost
from busi_monai.networks.library_encoders import import_library

__all__ = ["PAGE", "encoder_table"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "networks.md"
SIZE = (256, 256)
LIBRARIES = {"smp": "segmentation_models_pytorch", "timm": "timm"}


@functools.cache
def encoder_table() -> str:
    """Return the table; rows of the extra ``encoders`` stay where it cannot be imported."""
    rows = []
    for name in sorted(ENCODERS):
        try:
            if name in LIBRARIES:
                import_library(LIBRARIES[name])
        except InputError:
            table = PAGE.read_text("utf-8").partition("<!-- table: encoders -->")[2]
            old = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
            rows.append([cell.strip() for cell in old.split("|")[1:-1]])
        else:
            rows.append(_row(name))
    header = ["encoder", "strides", "bottleneck channels", "encoder", "network", "FLOPs"]
    return markdown(header, rows)


def _row(name: str) -> list[str]:
    """Return the row of an encoder with its own decoder and the default class head."""
    # nothing is computed or allocated, which smp's own layers do not take
    with torch.device("cpu" if name in LIBRARIES else "meta"):
        network = MultiTaskUNet(name)
        encoder = sum(weight.numel() for weight in network.encoder.parameters())
        cost = network_cost(network, SIZE)
    return [
        f"`{name}`",
        ", ".join(map(str, network.encoder.strides)),
        str(network.encoder.channels[-1]),
        f"{encoder / 1e6:.2f} M",
        f"{cost['parameters'] / 1e6:.2f} M",
        f"{cost['flops'] / 1e9:.1f} G",
    ]
