"""``busi-monai prepare``: a dataset to a leak-free training folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import busi_monai
from busi_monai.cli.console import console, leak_sentence, print_json, track
from busi_monai.cli.options import LayoutChoice, overwrite_option, quiet_option
from busi_monai.curation import DEDUP, MISSING_MASK, MULTI_MASK, PROTOCOLS

if TYPE_CHECKING:
    from busi_monai.curation import PrepareSummary

__all__ = ["command"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("prepare")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--layout",
    type=LayoutChoice("auto"),
    default="auto",
    show_default=True,
    help="Layout of the dataset.",
)
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default=next(iter(PROTOCOLS)),
    show_default=True,
    help=" ".join(f"{p.name}: {p.description}" for p in PROTOCOLS.values()),
)
@click.option(
    "--dedup",
    type=click.Choice(DEDUP),
    default=DEDUP[0],
    show_default=True,
    help="For random: drop equal pixels, or near-duplicates; the first is kept.",
)
@click.option("--ids", type=_FILE, help="For curated: the ids to keep, one a line or CSV.")
@click.option("--known", type=_FILE, help="Leave these images out: CSV of id and reason.")
@click.option("--train-list", type=_FILE, help="For file: ids of the training images.")
@click.option("--validation-list", type=_FILE, help="For file: ids of the validation images.")
@click.option("--test-list", type=_FILE, help="For file: ids of the test images.")
@click.option(
    "--from-datalist",
    metavar="NAME_OR_FILE",
    help="Repeat a shipped split (see busi-monai info), or a datalist.json.",
)
@click.option(
    "--ratios", default="80/10/10", show_default=True, help="Train/validation/test in per cent."
)
@click.option("--folds", default=0, help="Folds for cross-validation, instead of ratios.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random draw.")
@click.option(
    "--multi-mask",
    type=click.Choice(MULTI_MASK),
    default=MULTI_MASK[0],
    show_default=True,
    help="split adds a training case for each mask of an image with several.",
)
@click.option(
    "--missing-mask",
    type=click.Choice(MISSING_MASK),
    default=MISSING_MASK[0],
    show_default=True,
    help="What becomes of a lesion without a mask.",
)
@click.option("--mask-cleanup", is_flag=True, help="Smooth and fill masks, drop their specks.")
@overwrite_option
@quiet_option()
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(dataset: Path, out: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Turn a DATASET, a folder or an archive (zip, tar), into a folder to train and evaluate on.

    The folder holds the images as found, one mask per image, datalist.json (who is in which split),
    the audit with its figures and run.json. The dataset itself is never touched. Images that can't
    be used are left out and listed; the exit code is 1 if a file is at fault.
    """
    from busi_monai.curation import named_cases

    summary = busi_monai.prepare(
        dataset,
        out,
        **options,
        progress=lambda items: track(items, "Reading", total=len(items), quiet=quiet or as_json),
    )
    if as_json:
        print_json(summary.as_dict())
    elif not quiet:
        _print_summary(summary)
    for note in summary.notes:
        click.echo(f"Note: {note}", err=True)
    if summary.unlisted:
        names = ", ".join(summary.unlisted)
        click.echo(f"Left out, not in the datalist, {len(summary.unlisted)}: {names}", err=True)
    if summary.other_masks:
        click.echo(
            f"Other masks than the datalist tells: {named_cases(summary.other_masks)}", err=True
        )
    for failure in summary.failures:
        click.echo(f"Failed: {failure.file}: {failure.message}", err=True)
    if summary.failures:
        sys.exit(1)


def _print_summary(summary: PrepareSummary) -> None:
    from rich.markup import escape
    from rich.table import Table

    from busi_monai.io.archives import left_out_sentence

    out = console()
    datalist = summary.datalist
    name = f"{datalist.name}: " if datalist.name else ""
    title = f"{summary.out} ({name}{datalist.protocol}, seed {datalist.seed})"
    table = Table(title=escape(title))
    table.add_column("split")
    for name in (*datalist.classes, "images"):
        table.add_column(name, justify="right")
    for split, counts in summary.counts.items():
        table.add_row(split, *(str(n) for n in counts.values()), str(sum(counts.values())))
    out.print(table)
    for reason, names in summary.excluded_by_reason().items():
        out.print(escape(f"left out, {len(names)}: {reason}"))
    if summary.left_out:
        out.print(left_out_sentence(summary.left_out))
    leaks = datalist.leaks
    style = "red" if leaks["count"] else "green"
    groups = summary.duplicate_groups
    out.print(
        f"[{style}]{leak_sentence(leaks['count'], leaks['evaluation_images'])}[/{style}] "
        f"({groups} near-duplicate {'group' if groups == 1 else 'groups'} in the dataset)"
    )
    if "patients" in leaks:
        count = len(leaks["patients"])
        style = "red" if count else "green"
        verb = "patient has" if count == 1 else "patients have"
        out.print(f"[{style}]{count} {verb} images in several folds[/{style}]")
    masks = f"masks {datalist.labels_sha256[:12]}, " if datalist.labels_sha256 else ""
    out.print(escape(f"datalist {datalist.sha256[:12]}, {masks}{summary.seconds:.1f} s"))
