"""Options that several commands share, so that each is called and explained the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

__all__ = ["LAYOUTS", "LayoutChoice", "device_option", "overwrite_option", "quiet_option"]

LAYOUTS = ("busi", "bus_bra", "bus_uclm", "breast_lesions_usg", "folder")
"""Names in ``busi_monai.datasets.READERS``, which a command's help is too quick to import."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class LayoutChoice(click.Choice[str]):
    """A choice of layouts in which dashes and capitals pass, too."""

    def __init__(self, names: Sequence[str] = LAYOUTS) -> None:
        super().__init__(names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as the registry has it."""
        return super().convert(str(value).replace("-", "_").lower(), param, ctx)


device_option: Decorator = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
overwrite_option: Decorator = click.option(
    "--overwrite", is_flag=True, help="Replace an existing non-empty folder when complete."
)


def quiet_option(help: str = "No progress bar and no summary.") -> Decorator:
    """Return ``-q/--quiet`` with what it leaves out."""
    return click.option("-q", "--quiet", is_flag=True, help=help)
