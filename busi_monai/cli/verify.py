"""``busi-monai verify``: check prepared folders."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import busi_monai
from busi_monai.cli.console import console, leak_sentence, print_json, track
from busi_monai.cli.options import quiet_option

if TYPE_CHECKING:
    from busi_monai.curation import SharedImages, VerifyReport

__all__ = ["command"]


@click.command("verify")
@click.argument("prepared", nargs=-1, required=True, type=click.Path(path_type=Path))
@quiet_option("No progress bar and no summary; the exit code tells.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(prepared: tuple[Path, ...], quiet: bool, as_json: bool) -> None:
    """Check that PREPARED folders are unchanged and that their splits don't leak.

    Near-duplicates are found anew in the pixels. One across splits is an error for the protocols
    leakfree and curated, and is stated for random and file. Of several folders, as they are trained
    on together, one across them and their splits is an error, too. The exit code is 1 if anything
    is wrong.
    """

    def bar(items: Sequence[Any]) -> Iterable[Any]:
        return track(items, "Reading", total=len(items), quiet=quiet or as_json)

    def show(report: VerifyReport) -> None:
        if not (quiet or as_json):
            _print_report(report)

    found = busi_monai.verify(*prepared, progress=bar, each=show)
    if as_json:
        print_json(found.as_dict())
    elif found.shared is not None and not quiet:
        _print_shared(found.shared, len(prepared), ok=found.ok)
    if not found.ok:
        sys.exit(1)


def _print_shared(shared: SharedImages, folders: int, *, ok: bool) -> None:
    from rich.markup import escape

    out = console()
    for problem in shared.problems:
        out.print(f"[red]{problem.kind}[/red] {escape(f'{problem.file}: {problem.message}')}")
    leaking = sum(problem.kind == "shared_image" for problem in shared.problems)
    same = f"; {shared.same_side} on the same side" if shared.same_side else ""
    out.print(
        f"Between the {folders} folders, {shared.images} images: {leaking} near-duplicates across "
        f"splits{same}."
    )
    out.print("[green]All is well.[/green]" if ok else "[red]Problems found.[/red]")


def _print_report(report: VerifyReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    table = Table(title=escape(f"{report.folder} ({report.protocol})"))
    table.add_column("check")
    table.add_column("checked", justify="right")
    table.add_column("problems", justify="right")
    for check in report.checks:
        problems = report.problems_of(check)
        style = "red" if problems else "green"
        found = f"[{style}]{problems}[/{style}]" if check.judged else "stated, not judged"
        table.add_row(check.name, str(check.checked), found)
    out.print(table)
    for problem in report.problems:
        out.print(f"[red]{problem.kind}[/red] {escape(f'{problem.file}: {problem.message}')}")
    out.print(
        f"{leak_sentence(report.leaks.count, report.leaks.total)} (found anew; the datalist states "
        f"{report.stated_leaks})"
    )
    if not report.ok:
        out.print("[red]Problems found.[/red]")
    elif report.leaks.count:
        out.print(
            f"[yellow]The folder is as prepared, and it leaks, which the protocol "
            f"{report.protocol} allows: its figures are good for comparison only.[/yellow]"
        )
    else:
        out.print("[green]All is well.[/green]")
