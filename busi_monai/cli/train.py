"""``busi-monai train``: train a bundle on prepared datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

import busi_monai
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import print_json, research_log, say_loading
from busi_monai.cli.options import quiet_option, training_options

__all__ = ["command"]


@click.command("train")
@click.argument("prepared", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The run's folder to make."
)
@click.option("--fold", type=click.IntRange(min=0), help="Reported fold of a dataset with folds.")
@training_options
@click.option("--resume", is_flag=True, help="Continue the run in --out after an interrupt.")
@click.option("--tracking", metavar="mlflow|FILE", help="Experiment tracking, offline.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json at the end.")
@quiet_option("No progress bar and no log of the epochs.")
def command(
    prepared: tuple[Path, ...],
    out: Path,
    configs: tuple[str, ...],
    model: str | None,
    resume: bool,
    tracking: str | None,
    as_json: bool,
    quiet: bool,
    settings: tuple[str, ...],
    **training: Any,
) -> None:
    """Train a bundle on one or several PREPARED datasets.

    The run's folder is itself a bundle: evaluate and predict with it, or hand it to any MONAI tool.
    """
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    quiet = quiet or not first
    say_loading(quiet=quiet)
    from busi_monai.training import parse_overrides

    research_log(quiet=quiet)
    run = busi_monai.train(
        prepared,
        out,
        configs=configs,
        model=model,
        resume=resume,
        tracking=tracking,
        settings=parse_overrides(settings),
        **training,
    )
    if not first:
        return
    record = run.record or {}
    if as_json:
        print_json(record)
        return
    for name, stage in record.get("stages", {}).items():
        click.echo(f"Stage {name}: {_course(stage)}")
    if "stages" in record:
        click.echo(f"Trained both stages in {record['seconds']:.0f} s and joined them")
    else:
        click.echo(f"Trained {_course(record)}")
    click.echo(f"The run lies in {run.folder}. {NOT_FOR_CLINICAL_USE}")


def _course(record: dict[str, Any]) -> str:
    best, score = record["best"]["epoch"], record["best"]["val_score"]
    found = "no epoch was validated" if best is None else f"best epoch {best}"
    found += "" if score is None else f" with a validation score of {score:.3f}"
    length = "1 epoch" if record["epochs"] == 1 else f"{record['epochs']} epochs"
    where = ", then ".join(_where(record))
    return f"{length} on {where} in {record['seconds']:.0f} s; {found}"


def _where(record: dict[str, Any]) -> list[str]:
    """Return the devices and precisions that epochs were trained on and in, in turn."""
    trained, done = [], 0
    for session in record.get("sessions", []):
        if session["epochs"] > done and "device" in session:  # not of an earlier version's run
            trained.append(session)
        done = session["epochs"]
    places = (
        f"{each['device']['name']} ({each['precision']['name']})" for each in (*trained, record)
    )
    return list(dict.fromkeys(places))
