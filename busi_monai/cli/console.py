"""The one console of the commands: results on stdout, progress and messages on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from busi_monai.errors import BusiMonaiError, InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "console",
    "leak_sentence",
    "print_json",
    "reported_errors",
    "research_log",
    "say_loading",
    "track",
]

Item = TypeVar("Item")


def console(*, stderr: bool = False) -> Console:
    """Return a rich console on stdout, or on stderr for messages."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


def say_loading(*, quiet: bool = False) -> None:
    """Say on stderr that torch and MONAI are being loaded, which takes seconds."""
    if not quiet:
        click.echo("Loading …", err=True)


def track(items: Iterable[Item], label: str, *, total: int, quiet: bool = False) -> Iterable[Item]:
    """Yield the items with a progress bar on stderr: on a terminal only, and not when quiet."""
    if quiet or not sys.stderr.isatty():
        return items
    from rich.progress import track as rich_track

    return rich_track(items, description=label, total=total, console=console(stderr=True))


def research_log(*, quiet: bool = False) -> None:
    """Show what the libraries log on stderr: their course, or warnings only when quiet."""
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[handler := _AboveBars()],
        force=True,
    )
    handler.addFilter(_is_no_engine_error)
    # the engines' figures of every epoch: MONAI would print those of a new logger on stdout
    for name in ("train", "validate"):
        figures = logging.getLogger(name)
        figures.handlers = [handler]
        figures.disabled = quiet
    # the engines' start and end of every validation would drown the epochs' figures
    logging.getLogger("ignite").setLevel(logging.WARNING)
    # warns that overlays lie in another folder and that it leaves logging to us; it sets its level
    # when it is imported
    logging.getLogger("monai.bundle.workflows").disabled = True


class _AboveBars(logging.Handler):
    """Writes on stderr, above a progress bar and not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write_above_bars(self.format(record))
        except Exception:
            self.handleError(record)  # a closed pipe ends no training


def _write_above_bars(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _is_no_engine_error(record: logging.LogRecord) -> bool:
    """Leave out what engines log of an exception, which reaches the terminal by itself."""
    engine = record.name.split(".")[0] in {"ignite", "train", "validate"}
    return not engine or record.levelno < logging.ERROR


def leak_sentence(count: int, images: int) -> str:
    """Say how many evaluation images leak, in the number that fits.

    Examples:
        >>> leak_sentence(1, 12)
        '1 of 12 evaluation images has a near-duplicate in training'
    """
    verb = "has" if count == 1 else "have"
    return f"{count} of {images} evaluation images {verb} a near-duplicate in training"


def print_json(content: Any) -> None:
    """Print machine-readable JSON on stdout."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    r"""Turn an error of ours into its message and exit code: 2 for wrong usage, else 1.

    Names that are not UTF-8 are printed with ``\\udcNN`` for each such byte.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except InputError as error:
        _write_above_bars(f"Error: {error}")
        sys.exit(2)
    except (BusiMonaiError, OSError) as error:
        _write_above_bars(f"Error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _write_above_bars("Interrupted; finished outputs are intact.")
        sys.exit(130)
