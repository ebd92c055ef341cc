"""``busi-monai audit``: what a dataset holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import busi_monai
from busi_monai.cli.console import console, print_json, track
from busi_monai.cli.options import LayoutChoice, overwrite_option, quiet_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from busi_monai.curation import Audit

__all__ = ["command"]


@click.command("audit")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=LayoutChoice("auto"),
    default="auto",
    show_default=True,
    help="Layout of the dataset.",
)
@click.option(
    "--known",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Report these images too: CSV of id and reason.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json on stdout.")
@overwrite_option
@quiet_option()
def command(
    dataset: Path,
    layout: str,
    known: Path | None,
    out: Path | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Check DATASET: files, near-duplicates, class conflicts, masks, artefacts, statistics.

    DATASET is a folder or an archive (zip, tar). --known takes a list of what is known of images,
    such as which show an axilla; busi-monai prepare --known leaves them out.

    With --out, writes audit.json, cases.csv, figures and run.json. Nothing in DATASET is changed.
    Exits with 1 if any file can't be used.
    """

    def bar(cases: Sequence[Any]) -> Any:
        return track(cases, "Looking at images", total=len(cases), quiet=quiet or as_json)

    audit = busi_monai.audit(
        dataset, out=out, layout=layout, known=known, overwrite=overwrite, progress=bar
    )
    found = audit.as_dict()
    if as_json:
        print_json(found)
    elif not quiet:
        _print_summary(audit, found, out)
    for problem in audit.failures:
        click.echo(f"Failed: {problem.file}: {problem.message}", err=True)
    if audit.failures:
        raise SystemExit(1)


def _print_summary(audit: Audit, found: dict[str, Any], out: Path | None) -> None:
    from busi_monai.io.archives import left_out_sentence

    screen = console()
    screen.print(_summary_table(found))
    if audit.problems:
        screen.print(_problem_table(audit))
    if audit.listing.left_out:
        screen.print(left_out_sentence(audit.listing.left_out))
    if out is not None:
        screen.print(f"Written to {out}", markup=False)


def _summary_table(found: dict[str, Any]) -> Table:
    from rich.table import Table

    statistics = found["statistics"]
    pixels = statistics["pixels"]
    share = 100 * pixels["lesion"] / max(1, pixels["lesion"] + pixels["background"])
    members = sum(len(group) for group in found["duplicate_groups"])
    table = Table(title=f"{found['dataset']}: {found['root']}", title_justify="left")
    table.add_column("found")
    table.add_column("", justify="right")
    rows = {
        "images": found["images"],
        **{f"  {name}": count for name, count in found["classes"].items()},
        "mask files": found["masks"],
        "images with several masks": len(found["multi_mask"]),
        "width, px": _span(statistics["width_px"]),
        "height, px": _span(statistics["height_px"]),
        "lesion pixels": f"{share:.1f} %",
        "near-duplicate groups": f"{len(found['duplicate_groups'])} of {members} images",
        "exact copies": sum(len(group) for group in found["exact_duplicates"]),
        "groups with a class conflict": len(found["class_conflicts"]),
        "groups that join patients": len(found["patient_conflicts"]),
        "pairs with disagreeing masks": len(found["disagreeing_masks"]),
        **{
            f"artefact: {kind}": _by_class(counts)
            for kind, counts in found["artefact_classes"].items()
        },
        **{
            f"known: {reason}": count
            for reason, count in Counter(entry["reason"] for entry in found["known"]).items()
        },
        "problems": len(found["problems"]),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _by_class(counts: dict[str, int]) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"{sum(counts.values())} ({parts})" if parts else "0"


def _problem_table(audit: Audit, limit: int = 20) -> Table:
    from rich.markup import escape
    from rich.table import Table

    problems = audit.problems
    more = f", the first {limit}" if len(problems) > limit else ""
    table = Table("kind", "file", "what", title=f"{len(problems)} problems{more}")
    for problem in problems[:limit]:
        table.add_row(problem.kind, escape(problem.file), escape(problem.message))
    return table


def _span(summary: dict[str, float | None]) -> str:
    if summary["median"] is None:
        return "-"
    return f"{summary['min']:.0f} to {summary['max']:.0f}, median {summary['median']:.0f}"
