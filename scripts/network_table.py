"""Write the table of all encoders into docs/networks.md: parameters and FLOPs at defaults.

    python scripts/network_table.py            # rewrites the table
    python scripts/network_table.py --check    # exits with 1 if it is not what the code gives

Rows of the extra ``encoders`` are kept as they are where it cannot be imported.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import torch

from busi_monai.errors import InputError
from busi_monai.networks import ENCODERS, MultiTaskUNet, network_cost
from busi_monai.networks.library_encoders import import_library

PAGE = Path(__file__).resolve().parent.parent / "docs" / "networks.md"
START, END = "<!-- table of encoders: scripts/network_table.py -->", "<!-- end of the table -->"
SIZE = (256, 256)
LIBRARIES = {"smp": "segmentation_models_pytorch", "timm": "timm"}


@functools.cache
def row(name: str) -> str:
    """Return the table's row of an encoder with its own decoder and the default class head."""
    # nothing is computed or allocated, which smp's own layers do not take
    with torch.device("cpu" if name in LIBRARIES else "meta"):
        network = MultiTaskUNet(name)
        encoder = sum(weight.numel() for weight in network.encoder.parameters())
        cost = network_cost(network, SIZE)
    strides = ", ".join(str(stride) for stride in network.encoder.strides)
    return (
        f"| `{name}` | {strides} | {network.encoder.channels[-1]} | {encoder / 1e6:.2f} M | "
        f"{cost['parameters'] / 1e6:.2f} M | {cost['flops'] / 1e9:.1f} G |"
    )


def table(old: str) -> str:
    """Return all rows; those that cannot be computed here are taken from the old table."""
    lines = [
        "| encoder | strides | bottleneck channels | encoder | network | FLOPs |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(ENCODERS):
        try:
            if name in LIBRARIES:
                import_library(LIBRARIES[name])
            lines.append(row(name))
        except InputError:
            lines += [line for line in old.splitlines() if line.startswith(f"| `{name}` |")]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check the page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    page = PAGE.read_text("utf-8")
    before, rest = page.split(START)
    old, after = rest.split(END)
    new = f"{before}{START}\n\n{table(old)}\n\n{END}{after}"
    if options.check:
        if new != page:
            print(f"{PAGE.name} differs from the code: run python scripts/network_table.py")
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
