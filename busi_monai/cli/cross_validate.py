"""``busi-monai cross-validate``: every fold trained, out-of-fold predictions measured together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import DEFAULT_BUNDLE
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import (
    leak_sentence,
    print_json,
    research_log,
    say_loading,
)
from busi_monai.cli.evaluate import print_figures, print_seen
from busi_monai.cli.options import (
    quiet_option,
    resamples_option,
    training_options,
    training_overrides,
)
from busi_monai.errors import InputError

__all__ = ["command"]


@click.command("cross-validate")
@click.argument("prepared", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder to make or to go on with."
)
@click.option("--folds", metavar="0,1,…", help="Which folds to do; by default all.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Folds at once, each in a process of its own.",
)
@training_options
@resamples_option
@click.option("--overlays/--no-overlays", default=False, help="Images with outlines.")
@click.option("--ensemble", is_flag=True, help="Join the folds' networks to one bundle, too.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json on stdout.")
@quiet_option("No progress bar and no log of the epochs.")
def command(
    prepared: tuple[Path, ...],
    out: Path,
    folds: str | None,
    jobs: int,
    configs: tuple[str, ...],
    model: str | None,
    resamples: int,
    overlays: bool,
    ensemble: bool,
    as_json: bool,
    quiet: bool,
    **training: Any,
) -> None:
    """Train and evaluate every fold of one or several PREPARED datasets.

    The same command goes on after an interrupt; finished folds are never repeated.
    """
    say_loading(quiet=quiet)
    from busi_monai.experiments.cross_validation import cross_validate
    from busi_monai.files import read_json

    research_log(quiet=quiet)
    folder = cross_validate(
        prepared,
        out,
        configs=configs,
        bundle=model or DEFAULT_BUNDLE,
        overrides=training_overrides(**training),
        folds=None if folds is None else _numbers(folds),
        jobs=jobs,
        resamples=resamples,
        overlays=overlays,
        ensemble=ensemble,
    )
    metrics = read_json(folder / "metrics.json")
    if as_json:
        print_json(metrics)
        return
    record = read_json(Bundle(folder).record_file)
    if not quiet:
        print_figures(metrics)
    leaks = metrics["leaks"]
    if leaks:
        click.echo(f"{leak_sentence(leaks['count'], leaks['evaluation_images'])}.")
    print_seen(metrics)
    done, missing = record["finished_folds"], record["missing_folds"]
    left = f"; {', '.join(map(str, missing))} are still to do" if missing else ""
    click.echo(f"Pooled over the folds {', '.join(map(str, done))}{left}.")
    if ensemble:
        click.echo(f"The ensemble lies in {folder / 'ensemble'}: for images that no fold has seen.")
    click.echo(f"Report, predictions and the folds' runs lie in {folder}. {NOT_FOR_CLINICAL_USE}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--folds {text!r}: expected numbers with commas, as in 0,1") from None
