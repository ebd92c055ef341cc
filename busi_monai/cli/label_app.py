"""``busi-monai label-app``: a MONAI Label server for a folder of images."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from busi_monai.bundle.shipped import DEFAULT_BUNDLE
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.options import device_option, quiet_option

__all__ = ["command"]


@click.command("label-app")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the app: models and retrainings are kept in it.",
)
@click.option(
    "--studies",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the images; labels are kept in it.",
)
@click.option(
    "--model",
    default=DEFAULT_BUNDLE,
    show_default=True,
    help="Bundle or run that is served first.",
)
@device_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port."
)
@click.option("--no-start", is_flag=True, help="Write the app, start no server.")
@quiet_option("Say nothing but errors; the server has its own log.")
def command(
    out: Path,
    studies: Path,
    model: str,
    device: str,
    host: str,
    port: int,
    no_start: bool,
    quiet: bool,
) -> None:
    """Label a folder of images with MONAI Label: REST clients, 3D Slicer, CVAT.

    Proposes outline and class, hands out the next image (random, uncertain, diverse), trains on
    what is submitted and serves the result. An app that is there goes on with what it has trained.
    Everyone who reaches the server can read and change the labels: there is no password.

    For research use only; not a medical device.
    """
    from busi_monai.label_app import (
        check_monai_label,
        check_port,
        server_command,
        start_server,
        write_app_folder,
    )

    if not no_start:
        check_monai_label()
        check_port(host, port)
    app = write_app_folder(out, model, device=device)
    words = server_command(app, studies.absolute(), host=host, port=port)
    if not quiet:
        click.echo(f"Wrote {app}")
        if no_start:
            command_line = shlex.join([".venv-label/bin/python", *words[1:]])
            click.echo(f"Start it where MONAI Label is installed: {command_line}")
        else:
            click.echo(f"MONAI Label at http://{host}:{port}; stop it with Ctrl-C")
        click.echo(NOT_FOR_CLINICAL_USE)
    if not no_start:
        start_server(words)
