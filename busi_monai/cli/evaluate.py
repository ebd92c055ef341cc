"""``busi-monai evaluate``: measure a run on a split of prepared datasets, or a kept table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import busi_monai
from busi_monai.cases import NOT_FOR_CLINICAL_USE, SPLITS
from busi_monai.cli.console import (
    console,
    leak_sentence,
    print_json,
    research_log,
    say_loading,
)
from busi_monai.cli.options import (
    consistency_option,
    device_option,
    flip_option,
    operating_point_option,
    overwrite_option,
    quiet_option,
)

if TYPE_CHECKING:
    from busi_monai.settings import Consistency

__all__ = ["command", "print_figures", "print_seen"]

SHOWN = (
    "lesion_dice",
    "lesion_iou",
    "all_dice",
    "mean_iou",
    "normal_clean_rate",
    "pixel_accuracy",
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auc_macro",
    "auc_malignant",
    "ece",
)


@click.command("evaluate")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.argument("prepared", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Instead of RUN and PREPARED: a folder or table of predictions to measure anew.",
)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="With --predictions: the prepared dataset with their truth.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="reported",
    show_default=True,
    help="Which images: the reported ones are test, or the run's own fold.",
)
@click.option("--fold", type=click.IntRange(min=0), help="By default the run's own fold.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@device_option
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Images for one call of the network."
)
@click.option("--resamples", type=click.IntRange(min=1), help="Bootstrap resamples of the groups.")
@flip_option
@operating_point_option
@consistency_option
@click.option("--overlays/--no-overlays", default=True, help="Images with outlines.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of evaluate.yaml; nested keys as a#b. Values are YAML.",
)
@overwrite_option
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json on stdout.")
@quiet_option()
def command(
    run: Path | None,
    prepared: tuple[Path, ...],
    predictions: Path | None,
    dataset: Path | None,
    split: str,
    fold: int | None,
    out: Path,
    device: str,
    batch_size: int | None,
    resamples: int | None,
    tta_flip: bool | None,
    operating_point: str | None,
    consistency: bool | None,
    overlays: bool,
    settings: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure RUN (a run, or a bundle) on a split of one or several PREPARED datasets.

    Or measure a table of predictions that was kept, with --predictions in place of RUN and
    PREPARED; of the other options, only --dataset, --consistency (and of --set its key
    consistency), --out, --resamples, --overwrite, --json and --quiet then mean something.
    """
    say_loading(quiet=quiet)
    from busi_monai.files import read_json

    research_log(quiet=True)
    if predictions is not None:
        if run is not None:
            raise click.UsageError("--predictions stands in place of RUN and PREPARED; give one")
        rule = _rule_of_a_table(consistency, settings)
        folder = _measure_table(predictions, out, dataset, rule, resamples, overwrite)
    elif run is None or not prepared:
        raise click.UsageError("expected RUN and PREPARED, or --predictions")
    elif dataset is not None:
        raise click.UsageError("--dataset belongs to --predictions; give datasets after RUN")
    else:
        from busi_monai.training import parse_overrides

        values = parse_overrides(settings)
        folder = out.absolute()
        busi_monai.evaluate(
            run,
            prepared,
            out,
            split=split,
            fold=fold,
            device=device,
            batch_size=batch_size,
            resamples=resamples,
            tta_flip=tta_flip,
            operating_point=operating_point,
            consistency=_asked_rule(consistency, values),
            overlays=overlays,
            settings=values,
            overwrite=overwrite,
        )
    metrics = read_json(folder / "metrics.json")
    if as_json:
        print_json(metrics)
    elif not quiet:
        print_figures(metrics)
        _print_leaks(metrics.get("leaks"))
        if metrics.get("missing_images"):
            click.echo(
                f"{metrics['missing_images']} images of the same splits are not in the table."
            )
        print_seen(metrics)
        if metrics.get("lesion_boxes") == "true masks":
            click.echo("The class was told from crops around the true lesions, not the images.")
        click.echo(f"All figures, those by class too, are in {folder / 'metrics.json'}.")
        click.echo(f"Predictions, images and report lie beside it. {NOT_FOR_CLINICAL_USE}")


def _asked_rule(flag: bool | None, values: dict[str, Any]) -> Any:
    """Return what the flag and ``--set consistency=…`` say of the rule, ``None`` if nothing.

    Args:
        flag: ``--consistency`` or ``--no-consistency``.
        values: the settings; the rule is taken out.
    """
    setting = values.pop("consistency", None)
    if flag is None or setting is None:
        return setting if flag is None else flag
    given = setting if isinstance(setting, Mapping) else {"enabled": setting}
    if given.get("enabled", flag) != flag:
        word = "--consistency" if flag else "--no-consistency"
        raise click.UsageError(f"{word} contradicts --set consistency={setting}; give one")
    return {**given, "enabled": flag}


def _rule_of_a_table(flag: bool | None, settings: tuple[str, ...]) -> Consistency | None:
    """Return the consistency rule that a table is to be measured with, if any."""
    from busi_monai.settings import Consistency
    from busi_monai.training import parse_overrides

    values = parse_overrides(settings)
    asked = _asked_rule(flag, values)
    if values:
        raise click.UsageError(
            f"--set {', '.join(values)}: of a table, only consistency can be set, as in "
            '--set "consistency={normal_threshold: 0.4}"'
        )
    if asked is None:
        return None
    rule = Consistency().changed(asked)
    if not rule.enabled:
        raise click.UsageError("the consistency rule cannot be taken out of a table")
    return rule


def _measure_table(
    predictions: Path,
    out: Path,
    dataset: Path | None,
    rule: Consistency | None,
    resamples: int | None,
    overwrite: bool,
) -> Path:
    from busi_monai.evaluation import evaluate_table

    drawn = {} if resamples is None else {"resamples": resamples}
    return evaluate_table(
        predictions, out, dataset=dataset, consistency=rule, overwrite=overwrite, **drawn
    )


def print_figures(metrics: dict[str, Any]) -> None:
    """Print the main figures with their intervals as a table."""
    from rich.table import Table

    table = Table("figure", "value", "95 % interval", "images")
    for name in SHOWN:
        figure = metrics.get(name)
        if figure and figure["value"] is not None:
            known = figure["low"] is not None
            interval = f"{figure['low']:.3f} – {figure['high']:.3f}" if known else "–"
            table.add_row(name, f"{figure['value']:.3f}", interval, str(figure["n"]))
    console().print(table)


def _print_leaks(leaks: dict[str, int] | None) -> None:
    if leaks is None:
        return
    warning = "; the figures are good for comparison only" if leaks["count"] else ""
    click.echo(f"{leak_sentence(leaks['count'], leaks['evaluation_images'])}{warning}.")


def print_seen(metrics: dict[str, Any]) -> None:
    """Print how many images the network was trained on, if any, unless the split is ``train``."""
    seen = metrics.get("seen_in_training")
    if seen and metrics.get("split") != "train":
        click.echo(
            f"{seen} of {metrics['images']} images are among those that the network was trained "
            "on: the figures tell of memory, not of skill."
        )
