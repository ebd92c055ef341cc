"""``busi-monai label-import``: what annotators submitted to MONAI Label, as a dataset."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from busi_monai.cli.console import print_json
from busi_monai.cli.options import overwrite_option, quiet_option

if TYPE_CHECKING:
    from busi_monai.label_app import LabelImport

__all__ = ["command"]


@click.command("label-import")
@click.argument("studies", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--tag", default="final", show_default=True, help="Which labels: final is what was submitted."
)
@overwrite_option
@quiet_option("No summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    studies: Path, out: Path, tag: str, overwrite: bool, quiet: bool, as_json: bool
) -> None:
    """Make a folder that prepare reads of the labels in a MONAI Label server's STUDIES.

    The folder holds images, masks and labels.csv with the class, who submitted it, when, and which
    weights were served; provenance.json tells all that is known. Labels that can't be used are left
    out and listed; the exit code is then 1.
    """
    from busi_monai.label_app import import_submitted_labels

    done = import_submitted_labels(studies, out, tag, overwrite=overwrite)
    if as_json:
        print_json(done.as_dict())
    elif not quiet:
        _print_summary(done)
    for problem in done.problems:
        click.echo(f"Left out: {problem.file}: {problem.message}", err=True)
    if done.problems or done.out is None:
        sys.exit(1)


def _print_summary(done: LabelImport) -> None:
    if done.out is None:
        click.echo(f"No label of the tag {done.tag} could be used; nothing was written.", err=True)
        return
    classes = ", ".join(f"{name} {count}" for name, count in done.classes.items())
    click.echo(f"{sum(done.classes.values())} labels ({classes}), {len(done.problems)} left out")
    click.echo(f"Wrote {done.out}")
