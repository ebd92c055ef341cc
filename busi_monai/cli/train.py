"""``busi-monai train``: train a bundle on prepared datasets."""

from __future__ import annotations

from pathlib import Path

import click

from busi_monai.cli.console import RESEARCH_USE, print_json, research_log
from busi_monai.cli.options import device_option, quiet_option
from busi_monai.shipped import DEFAULT_BUNDLE

__all__ = ["command"]


@click.command("train")
@click.argument("prepared", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The run's folder to make."
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="NAME_OR_FILE",
    help="Shipped overlay (smoke, cpu, gpu, …) or YAML file; several are laid on in turn.",
)
@click.option("--bundle", default=DEFAULT_BUNDLE, show_default=True, help="Bundle to train.")
@click.option("--fold", type=click.IntRange(min=0), help="Reported fold of a dataset with folds.")
@click.option("--epochs", type=click.IntRange(min=1), help="Length of the training.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures for one step.")
@click.option("--image-size", type=click.IntRange(min=16), help="Side of the network's input, px.")
@click.option("--patience", type=click.IntRange(min=1), help="Validations without a better score.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random draw.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the configuration; nested keys as a#b. Values are YAML.",
)
@device_option
@click.option("--resume", is_flag=True, help="Continue the run in --out after an interrupt.")
@click.option("--tracking", metavar="mlflow|FILE", help="Experiment tracking, offline.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json at the end.")
@quiet_option("No progress bar and no log of the epochs.")
def command(
    prepared: tuple[Path, ...],
    out: Path,
    configs: tuple[str, ...],
    bundle: str,
    fold: int | None,
    epochs: int | None,
    batch_size: int | None,
    image_size: int | None,
    patience: int | None,
    seed: int | None,
    settings: tuple[str, ...],
    device: str,
    resume: bool,
    tracking: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a bundle on one or several PREPARED datasets.

    The run's folder is itself a bundle: evaluate and predict with it, or hand it to any MONAI tool.
    """
    from busi_monai.files import read_json
    from busi_monai.training import parse_overrides, train_bundle

    research_log(quiet=quiet)
    overrides = {
        "fold": fold,
        "max_epochs": epochs,
        "batch_size": batch_size,
        "image_size": None if image_size is None else [image_size, image_size],
        "patience": patience,
        "seed": seed,
        "device_name": device,
        **parse_overrides(settings),
    }
    run = train_bundle(
        prepared,
        out,
        configs=configs,
        bundle=bundle,
        overrides=overrides,
        resume=resume,
        tracking=tracking,
    )
    record = read_json(run / "run.json")
    if as_json:
        print_json(record)
        return
    best, score = record["best"]["epoch"], record["best"]["val_score"]
    found = "no epoch was validated" if best is None else f"best epoch {best}"
    found += "" if score is None else f" with a validation score of {score:.3f}"
    length = "1 epoch" if record["epochs"] == 1 else f"{record['epochs']} epochs"
    click.echo(
        f"Trained {length} on {record['device']['name']} "
        f"({record['precision']['name']}) in {record['seconds']:.0f} s; {found}"
    )
    click.echo(f"The run lies in {run}. {RESEARCH_USE}")
