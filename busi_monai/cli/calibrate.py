"""``busi-monai calibrate``: fit temperature and operating points of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import console, print_json, research_log
from busi_monai.cli.options import quiet_option
from busi_monai.settings import PREVALENCE, SENSITIVITIES

if TYPE_CHECKING:
    from busi_monai.settings import InferenceSettings

__all__ = ["command"]


@click.command("calibrate")
@click.argument("run")
@click.argument("predictions", type=click.Path(path_type=Path))
@click.option(
    "--sensitivity",
    "sensitivities",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True),
    default=SENSITIVITIES,
    show_default=True,
    help="For malignancy, to fit a threshold for; may be given several times.",
)
@click.option(
    "--prevalence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=PREVALENCE,
    show_default=True,
    help="Part of malignant images that predictive values are told for.",
)
@click.option("--json", "as_json", is_flag=True, help="Print settings.json at the end.")
@quiet_option()
def command(
    run: str,
    predictions: Path,
    sensitivities: tuple[float, ...],
    prevalence: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fit how sure RUN (a run, ensemble or bundle) may be, and thresholds for malignancy.

    PREDICTIONS is a predictions folder or table of images that RUN was not trained on: its
    split validation (evaluate --split validation), or the out-of-fold table of a cross-validation
    by the same recipe. What is fitted is kept in RUN's settings.json, which everything follows.
    """
    from busi_monai.evaluation import calibrate_bundle

    research_log(quiet=True)
    settings = calibrate_bundle(
        run, predictions, sensitivities=sensitivities, prevalence=prevalence
    )
    if as_json:
        print_json(settings.as_dict())
    elif not quiet:
        _print_fitted(settings)


def _print_fitted(settings: InferenceSettings) -> None:
    from rich.table import Table

    fitted = settings.calibration
    click.echo(
        f"Temperature {settings.temperature:.3f}, fitted on {fitted['images']} images in "
        f"{fitted['groups']} groups."
    )
    if settings.operating_points:
        table = Table(box=None)
        table.add_column("operating point", no_wrap=True)
        for heading in ("from", "sensitivity", "specificity", "PPV", "NPV", "missed"):
            table.add_column(heading)
        for name, point in settings.operating_points.items():
            rates = (point.sensitivity, point.specificity, point.ppv, point.npv)
            cells = ["–" if rate is None else f"{rate:.3f}" for rate in rates]
            missed = f"{point.missed} of {point.positives}"
            table.add_row(name, f"{point.threshold:.3f}", *cells, missed)
        console().print(table)
        prevalence = 100 * next(iter(settings.operating_points.values())).prevalence
        click.echo(f"PPV and NPV at a prevalence of {prevalence:g} %. {NOT_FOR_CLINICAL_USE}")
