"""``busi-monai compare``: several evaluated systems in one table, with paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import busi_monai
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import console, print_json, research_log
from busi_monai.cli.options import overwrite_option, quiet_option, resamples_option

__all__ = ["command"]

SHOWN = ("lesion_dice", "all_dice", "accuracy", "macro_f1", "auc_malignant")


@click.command("compare")
@click.argument("systems", nargs=-1, required=True, metavar="[NAME=]PATH...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--reference", metavar="NAME", help="System that differences are taken to; else the first."
)
@click.option(
    "--note",
    "notes",
    multiple=True,
    metavar="NAME=TEXT",
    help="Remark on a system; an unknown name becomes a row for what could not be run.",
)
@click.option("--title", default="Comparison", show_default=True, help="Heading of the report.")
@click.option(
    "--common", is_flag=True, help="Compare on the images in common, whatever the datalists."
)
@resamples_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the resampling."
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report into this file too; an earlier report is replaced.",
)
@overwrite_option
@click.option("--json", "as_json", is_flag=True, help="Print comparison.json on stdout.")
@quiet_option()
def command(
    systems: tuple[str, ...],
    out: Path,
    reference: str | None,
    notes: tuple[str, ...],
    title: str,
    common: bool,
    resamples: int,
    seed: int,
    markdown: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare evaluated systems: runs with an evaluation/, evaluations, cross-validations."""
    from busi_monai.experiments.comparison_report import header_lines
    from busi_monai.experiments.systems import named_notes

    research_log(quiet=True)
    comparison = busi_monai.compare(
        systems,
        out,
        reference=reference,
        notes=named_notes(notes),
        title=title,
        common=common,
        resamples=resamples,
        seed=seed,
        markdown=markdown,
        overwrite=overwrite,
    )
    if as_json:
        print_json(comparison.as_dict())
    elif not quiet:
        for line in header_lines(comparison):
            click.echo(line)
        _print_table(comparison.systems)
        click.echo(f"All figures and differences are in {out.absolute() / 'comparison.html'}.")
        click.echo(NOT_FOR_CLINICAL_USE)


def _print_table(systems: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("system", *SHOWN)
    for system in systems:
        figures = system.get("figures", {})
        cells = [figures.get(name, {}).get("value") for name in SHOWN]
        table.add_row(system["name"], *("–" if v is None else f"{v:.3f}" for v in cells))
    console().print(table)
