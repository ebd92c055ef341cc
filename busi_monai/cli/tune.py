"""``busi-monai tune``: search the configuration for the highest validation score."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from busi_monai.bundle.shipped import DEFAULT_BUNDLE
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import print_json, research_log
from busi_monai.cli.options import quiet_option, training_device_option, training_overrides
from busi_monai.experiments.tuning_study import KEEP, PRUNERS

__all__ = ["command"]


@click.command("tune")
@click.argument("prepared", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--space", required=True, type=click.Path(path_type=Path), help="YAML file of what to vary."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The search's folder.")
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="NAME_OR_FILE",
    help="Shipped overlay (smoke, cpu, gpu, …) or YAML file; several are laid on in turn.",
)
@click.option("--model", default=DEFAULT_BUNDLE, show_default=True, help="Bundle to train.")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of trials in all, earlier ones included.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Worker processes."
)
@click.option("--fold", type=click.IntRange(min=0), help="Reported fold, which is not looked at.")
@click.option("--epochs", type=click.IntRange(min=1), help="Length of a training.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images for one step.")
@click.option("--image-size", type=click.IntRange(min=16), help="Side of the network's input, px.")
@click.option("--patience", type=click.IntRange(min=1), help="Validations without a better score.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of proposals and trainings.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the configuration; nested keys as a#b. Values are YAML.",
)
@click.option(
    "--pruner",
    type=click.Choice(PRUNERS),
    default=PRUNERS[0],
    show_default=True,
    help="How hopeless trials are ended early.",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Epochs before a trial may be ended early.",
)
@click.option(
    "--keep",
    type=click.Choice(KEEP),
    default=KEEP[0],
    show_default=True,
    help="Whose weights are kept.",
)
@training_device_option
@click.option("--json", "as_json", is_flag=True, help="Print run.json at the end.")
@quiet_option("No line for each trial.")
def command(
    prepared: tuple[Path, ...],
    space: Path,
    out: Path,
    configs: tuple[str, ...],
    model: str,
    trials: int,
    jobs: int,
    fold: int | None,
    epochs: int | None,
    batch_size: int | None,
    image_size: int | None,
    patience: int | None,
    seed: int | None,
    settings: tuple[str, ...],
    pruner: str,
    warmup: int,
    keep: str,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Search for the configuration of the highest validation score on PREPARED datasets.

    The same command continues a search after an interrupt, and several at a time share its trials.
    Exits with 1 if a trial failed.
    """
    from busi_monai.experiments.tuning_space import read_space
    from busi_monai.experiments.tuning_study import require_optuna

    require_optuna()
    from busi_monai.experiments.tuning import TuningPlan, tune
    from busi_monai.files import read_json

    research_log(quiet=True)
    logging.getLogger("busi_monai.experiments").setLevel(logging.WARNING if quiet else logging.INFO)
    plan = TuningPlan(
        tuple(prepared),
        out.absolute(),
        read_space(space),
        configs=configs,
        bundle=model,
        overrides=training_overrides(
            fold=fold,
            epochs=epochs,
            batch_size=batch_size,
            image_size=image_size,
            patience=patience,
            seed=seed,
            device=device,
            settings=settings,
        ),
        seed=seed or 0,
        pruner=pruner,
        warmup=warmup,
        keep=keep,
    )
    record = read_json(tune(plan, trials=trials, jobs=jobs) / "run.json")
    if as_json:
        print_json(record)
    else:
        _print_summary(record, out)
    for failure in record["failures"]:
        click.echo(f"Failed: {failure['file']}: {failure['message']}", err=True)
    if record["failures"]:
        raise SystemExit(1)


def _print_summary(record: dict[str, Any], out: Path) -> None:
    counts = record["trials"]
    names = {name: name for name in counts if name != "total"} | {"unfinished": "running elsewhere"}
    states = ", ".join(f"{counts[name]} {spoken}" for name, spoken in names.items())
    total = "1 trial" if counts["total"] == 1 else f"{counts['total']} trials"
    click.echo(f"{total}: {states}")
    best = record["best"]
    if best is None:
        click.echo("No trial is complete, so that there is no best one.")
        return
    click.echo(f"Best is trial {best['trial']} with a validation score of {best['score']:.4f}:")
    for key, value in best["parameters"].items():
        click.echo(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    click.echo(f"Train with it: --config {out / 'best.yaml'}. {NOT_FOR_CLINICAL_USE}")
