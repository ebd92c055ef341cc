"""``busi-monai serve``: REST and a page in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.options import device_option, model_option, operating_point_option

__all__ = ["command"]


@click.command("serve")
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 for a free one.",
)
@device_option
@operating_point_option
@click.option(
    "--auth-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Tokens that are let in; others are not.",
)
@click.option("--insecure", is_flag=True, help="Let in anyone, from other machines too.")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A further name by which the service is called; may be given again.",
)
@click.option(
    "--keep",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Keep rows and masks there; by default nothing is kept.",
)
@click.option("--no-page", is_flag=True, help="REST only.")
@click.option(
    "--max-megabytes",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="Size of a request.",
)
@click.option(
    "--max-megapixels",
    default=32.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Pixels of an image, or of one frame.",
)
@click.option(
    "--max-files",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Files of a request.",
)
@click.option(
    "--max-frames",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Frames of a loop; of a longer one as many, evenly spaced.",
)
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Time for an upload, for waiting, and for predicting.",
)
@click.option(
    "--concurrency",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Predictions at the same time.",
)
@click.option(
    "--queue",
    default=16,
    show_default=True,
    type=click.IntRange(min=0),
    help="Requests that may wait; one more is refused with 503.",
)
@click.option(
    "--per-minute",
    default=120,
    show_default=True,
    type=click.IntRange(min=0),
    help="Requests of one client, 0 for any number; one more is refused with 429.",
)
@click.option(
    "--new-token", metavar="NAME", help="Print a token and its --auth-file line, and end."
)
def command(
    *,
    model: str | None,
    host: str,
    port: int,
    device: str,
    operating_point: str | None,
    auth_file: Path | None,
    insecure: bool,
    allow_hosts: tuple[str, ...],
    keep: Path | None,
    no_page: bool,
    max_megabytes: int,
    max_megapixels: float,
    max_files: int,
    max_frames: int,
    seconds: float,
    concurrency: int,
    queue: int,
    per_minute: int,
    new_token: str | None,
) -> None:
    """Answer over REST, and by a page in the browser.

    Listens on this machine alone unless --host says otherwise, which needs --auth-file or
    --insecure. Images stay in memory, and nothing is kept without --keep. SIGTERM ends it when
    the running requests are answered.

    For research use only; not a medical device.
    """
    if new_token is not None:
        from busi_monai.serving import new_token_entry

        secret, line = new_token_entry(new_token)
        click.echo(f"Token, shown this once: {secret}", err=True)
        click.echo(line)
        return
    from busi_monai.serving import check_web_support

    check_web_support()
    from busi_monai.serving import Limits, serve

    limits = Limits(
        max_bytes=max_megabytes * 1024 * 1024,
        max_files=max_files,
        max_pixels=int(max_megapixels * 1_000_000),
        max_frames=max_frames,
        seconds=seconds,
        concurrency=concurrency,
        queue=queue,
        per_minute=per_minute,
    )

    def started(address: str) -> None:
        click.echo(f"Listening on {address} (REST at {address}v1; Ctrl-C ends it)")
        click.echo(NOT_FOR_CLINICAL_USE)

    serve(
        model=model,
        host=host,
        port=port,
        device=device,
        operating_point=operating_point,
        auth_file=auth_file,
        insecure=insecure,
        allow_hosts=allow_hosts,
        keep=keep,
        page=not no_page,
        limits=limits,
        started=started,
    )
