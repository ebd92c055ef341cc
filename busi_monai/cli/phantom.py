"""``busi-monai phantom``: make a synthetic breast ultrasound dataset."""

from __future__ import annotations

import re
from pathlib import Path

import click

from busi_monai.cli.console import console
from busi_monai.cli.options import LayoutChoice, overwrite_option, quiet_option

__all__ = ["command"]


class ImageSize(click.ParamType):
    """Rows and columns written as ``HxW``."""

    name = "HxW"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return (H, W)."""
        match = re.fullmatch(r"([0-9]+)[x×X]([0-9]+)", str(value).strip())
        if match is None:
            self.fail(f"expected rows x columns such as 400x500, got {value!r}", param, ctx)
        return int(match[1]), int(match[2])


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="Number of images; the classes take turns.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed gives the same bytes.",
)
@click.option(
    "--size", type=ImageSize(), metavar="HxW", help="Size of every image; by default as in BUSI."
)
@click.option(
    "--layout",
    type=LayoutChoice(),
    default="busi",
    show_default=True,
    help="Whose names, masks and tables to imitate.",
)
@click.option(
    "--defects",
    is_flag=True,
    help="Add near-duplicates, a class conflict, text, broken files; see OUT/.defects.json.",
)
@overwrite_option
@quiet_option("Print nothing.")
def command(
    out: Path,
    cases: int,
    seed: int,
    size: tuple[int, int] | None,
    layout: str,
    defects: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Make a synthetic breast ultrasound dataset in the new folder OUT."""
    from busi_monai.datasets import read_dataset
    from busi_monai.phantoms import write_phantom_dataset

    folder = write_phantom_dataset(
        out,
        cases=cases,
        seed=seed,
        size=size,
        layout=layout,
        defects=defects,
        overwrite=overwrite,
    )
    if quiet:
        return
    listing = read_dataset(folder, layout)
    counts = ", ".join(f"{count} {name}" for name, count in listing.class_counts.items() if count)
    console().print(f"{folder}: {len(listing.cases)} phantoms ({counts})", markup=False)
    if defects:
        console().print(f"Planted defects: {folder}/.defects.json", markup=False)
