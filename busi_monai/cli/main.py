"""The command ``busi-monai``: finds its subcommands by name and imports only the one that runs."""

from __future__ import annotations

import importlib

import click

from busi_monai.cli.console import reported_errors
from busi_monai.threads import prepare_threads

__all__ = ["main"]

COMMANDS = {
    "phantom": "Make a synthetic breast ultrasound dataset.",
    "audit": "Check a dataset: files, near-duplicates, conflicts, artefacts.",
    "prepare": "Turn a dataset into a leak-free training folder.",
    "verify": "Check prepared folders: hashes, overlaps, leaks.",
    "show": "Draw images of a prepared folder with their outlines, and charts.",
    "train": "Train a bundle on prepared datasets.",
    "tune": "Search the configuration for the highest validation score.",
    "evaluate": "Measure a run on a split of a prepared dataset, or a kept table.",
    "cross-validate": "Train and evaluate every fold, pool the predictions.",
    "export": "Write a model as one file that other programs run.",
    "ensemble": "Make one bundle of several runs.",
    "calibrate": "Fit temperature and thresholds for malignancy.",
    "compare": "Put evaluated systems in one table, with paired differences.",
    "predict": "Outline and classify lesions in images.",
    "serve": "Answer over REST and a page in the browser.",
    "label-app": "Serve a folder of images to annotators with MONAI Label.",
    "label-import": "Make a dataset of the labels that they submitted.",
    "info": "List datasets, protocols, networks, losses, bundles, versions.",
}


RENAMED_OPTIONS = {
    "--run": "--model",
    "--bundle": "--model",
    "--flip-averaging": "--tta-flip",
    "--no-flip-averaging": "--no-tta-flip",
    "--val-list": "--validation-list",
}
"""Options of version 0.1.0 by which the same is still said, with today's names."""


class LazyGroup(click.Group):
    """A group whose help needs no command's module, so that it answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of a project."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or ``None`` for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"busi_monai.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; options of version 0.1.0 get today's names, with a note."""
        for place, word in enumerate(args):
            option, sign, value = word.partition("=")
            if option in RENAMED_OPTIONS:
                click.echo(f"Note: {option} is now {RENAMED_OPTIONS[option]}.", err=True)
                args[place] = RENAMED_OPTIONS[option] + sign + value
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' one-line descriptions without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error of ours becomes a message and an exit code."""
        prepare_threads()  # before the command imports torch
        with reported_errors():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="busi-monai")
def main() -> None:
    """Breast ultrasound: audited datasets, a lesion and class network, honest evidence.

    For research use only; not a medical device.
    """
