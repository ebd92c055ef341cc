"""``busi-monai info``: what this installation can do, from the registries themselves."""

from __future__ import annotations

from typing import Any

import click

from busi_monai.bundle import Bundle
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import console, print_json

__all__ = ["command", "describe_installation"]


WITHOUT_WEIGHTS = (
    "A bundle without weights has to be trained: busi-monai train PREPARED --out RUN, then give "
    "predict and evaluate that run (predict --model RUN)."
)


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(as_json: bool) -> None:
    """List datasets, protocols, splits, networks, losses, bundles and versions."""
    content = describe_installation()
    if as_json:
        print_json(content)
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in content.items():
        table.add_row(name.replace("_", " "), _as_text(value))
    output = console()
    output.print(table, markup=False)
    if not all(bundle["weights"] for bundle in content["bundles"].values()):
        output.print(WITHOUT_WEIGHTS, markup=False)
    output.print(NOT_FOR_CLINICAL_USE)


def describe_installation() -> dict[str, Any]:
    """Return the names in every registry, and the installed versions, as plain JSON values."""
    from busi_monai.bundle.shipped import shipped_bundles, shipped_configs
    from busi_monai.cases import CLASSES
    from busi_monai.curation import PROTOCOLS, shipped_splits
    from busi_monai.datasets import READERS
    from busi_monai.devices import PRECISIONS, choose_device, choose_precision, cpu_instructions
    from busi_monai.networks import ENCODERS, POOLINGS
    from busi_monai.records import installed_versions
    from busi_monai.threads import share_of_threads, usable_cores
    from busi_monai.training import LOSSES

    bundles = {
        name: {
            "path": str(path),
            "weights": Bundle(path).weights.is_file(),
        }
        for name, path in shipped_bundles().items()
    }
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    return {
        "classes": list(CLASSES),
        "datasets": list(READERS),
        "protocols": list(PROTOCOLS),
        "splits": {name: str(path) for name, path in shipped_splits().items()},
        "encoders": sorted(ENCODERS),
        "poolings": list(POOLINGS),
        "losses": {head: list(names) for head, names in LOSSES.items()},
        "precisions": list(PRECISIONS),
        "bundles": bundles,
        "configs": {name: str(path) for name, path in shipped_configs().items()},
        "device": {"name": device.name, "reason": device.reason},
        "cpu": {
            "instructions": cpu_instructions(),
            "usable_cores": usable_cores(),
            "threads": share_of_threads(),
        },
        "precision": {"name": precision.name, "reason": precision.reason},
        "versions": installed_versions(),
    }


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_as_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
