"""``busi-monai show``: images of a prepared dataset with their outlines, and charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from busi_monai.cases import CLASSES, SPLITS
from busi_monai.cli.console import print_json, track
from busi_monai.cli.options import overwrite_option, quiet_option

__all__ = ["command"]


@click.command("show")
@click.argument("prepared", type=click.Path(path_type=Path))
@click.option("--n", type=click.IntRange(min=1), default=9, show_default=True, help="How many.")
@click.option(
    "--class",
    "class_names",
    multiple=True,
    type=click.Choice(CLASSES, case_sensitive=False),
    help="Only images of this class; may be repeated.",
)
@click.option("--id", "ids", multiple=True, help="This image; may be repeated.")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    help="Only images of this split.",
)
@click.option("--fold", type=click.IntRange(min=0), help="Reported fold, for --split with folds.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draw."
)
@click.option("--out", type=click.Path(path_type=Path), help="Image to make: .png or .pdf.")
@click.option("--charts", type=click.Path(path_type=Path), help="Folder of charts to make.")
@click.option("--json", "as_json", is_flag=True, help="Print the ids shown as JSON.")
@overwrite_option
@quiet_option()
def command(
    prepared: Path,
    n: int,
    class_names: tuple[str, ...],
    ids: tuple[str, ...],
    split: str | None,
    fold: int | None,
    seed: int,
    out: Path | None,
    charts: Path | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Draw images of a PREPARED dataset beside their outlines (--out), or charts (--charts).

    Images are drawn at random, or named by --id. Charts count every image of the given class and
    split. Exits with 1 if an image could not be read.
    """
    from busi_monai.curation import choose_items, draw_charts, draw_sheet

    if out is None and charts is None:
        raise click.UsageError("say what to make: --out FILE, --charts DIR or both")

    def bar(items: Sequence[Any]) -> Any:
        return track(items, "Reading", total=len(items), quiet=quiet or as_json)

    pool: dict[str, Any] = {"class_names": class_names, "ids": ids, "split": split, "fold": fold}
    failures: list[tuple[str, str]] = []
    shown: list[dict[str, Any]] = []
    if out is not None:
        shown = choose_items(prepared, n=n, seed=seed, **pool)
        failures += draw_sheet(shown, out, overwrite=overwrite, progress=bar)
    if charts is not None:
        counted = choose_items(prepared, **pool)
        failures += draw_charts(prepared, counted, charts, overwrite=overwrite, progress=bar)
    failures = list(dict.fromkeys(failures))
    failed = {file for file, _ in failures}
    names = [item["id"] for item in shown if item["image"] not in failed]
    if as_json:
        print_json({"shown": names, "failures": [{"file": f, "message": m} for f, m in failures]})
    elif not quiet:
        if out is not None:
            few = "" if len(shown) >= n or ids else f" (there are no more than {len(shown)})"
            count = "1 image" if len(names) == 1 else f"{len(names)} images"
            click.echo(f"Drew {count}{few} into {out}")
        if charts is not None:
            click.echo(f"Charts lie in {charts}")
    for file, message in failures:
        click.echo(f"Failed: {file}: {message}", err=True)
    if failures:
        raise SystemExit(1)
