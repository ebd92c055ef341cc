"""``busi-monai ensemble``: one bundle of several runs."""

from __future__ import annotations

from pathlib import Path

import click

from busi_monai.bundle import Bundle
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import print_json, research_log
from busi_monai.cli.options import overwrite_option, quiet_option

__all__ = ["command"]


@click.command("ensemble")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Bundle to make.")
@overwrite_option
@click.option("--json", "as_json", is_flag=True, help="Print run.json at the end.")
@quiet_option()
def command(runs: tuple[str, ...], out: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Make a bundle that predicts with the mean of several RUNs (or bundles)."""
    from busi_monai.files import read_json
    from busi_monai.inference import write_ensemble

    research_log(quiet=True)
    folder = write_ensemble(runs, out, overwrite=overwrite)
    record = read_json(Bundle(folder).record_file)
    if as_json:
        print_json(record)
    elif not quiet:
        parameters = record["network"]["parameters"]
        click.echo(f"{len(record['members'])} networks with {parameters:,} weights in all.")
        click.echo(f"The ensemble lies in {folder}; use it as any run. {NOT_FOR_CLINICAL_USE}")
