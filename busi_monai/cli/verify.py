"""``busi-monai verify``: check a prepared folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from busi_monai.cli.console import console, leak_sentence, print_json, track
from busi_monai.cli.options import quiet_option

if TYPE_CHECKING:
    from busi_monai.curation import VerifyReport

__all__ = ["command"]


@click.command("verify")
@click.argument("prepared", type=click.Path(path_type=Path))
@quiet_option("No progress bar and no summary; the exit code tells.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(prepared: Path, quiet: bool, as_json: bool) -> None:
    """Check that a PREPARED folder is unchanged and that its parts don't leak.

    Near-duplicates are found anew in the pixels. One across parts is an error for the protocols
    leakfree and curated, and is stated for random and file. The exit code is 1 if anything is
    wrong.
    """
    from busi_monai.curation import verify_prepared

    report = verify_prepared(
        prepared,
        progress=lambda items: track(items, "Reading", total=len(items), quiet=quiet or as_json),
    )
    if as_json:
        print_json(report.as_dict())
    elif not quiet:
        _print_report(report)
    if not report.ok:
        sys.exit(1)


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
