"""Runs the service: loads the model, listens, and ends well."""

from __future__ import annotations

import ipaddress
import math
import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.errors import InputError
from busi_monai.records import RunRecord
from busi_monai.serving.limits import Limits
from busi_monai.serving.support import check_web_support

__all__ = ["ServeOptions", "bound_socket", "check_exposure", "serve"]


@dataclass(frozen=True)
class ServeOptions:
    """How the service is run.

    Attributes:
        host: address to listen on.
        port: to listen on; 0 for a free one.
        bundle: name of a shipped bundle, or folder of a bundle or run.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        operating_point: where malignancy is decided unless a request says otherwise.
        auth_file: tokens; see ``busi_monai.serving.credentials``.
        insecure: whether anyone who reaches another address than loopback is let in.
        keep: folder in which rows and masks are kept; ``None`` keeps nothing.
        allow_hosts: further names by which the service may be called.
        page: whether there is a page beside REST.
        limits: of the service.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    bundle: str | None = None
    device: str = "auto"
    operating_point: str | None = None
    auth_file: Path | None = None
    insecure: bool = False
    keep: Path | None = None
    allow_hosts: Sequence[str] = ()
    page: bool = True
    limits: Limits = field(default_factory=Limits)


def check_exposure(host: str, *, auth_file: Path | None, insecure: bool) -> None:
    """Check that nobody is let in by mistake.

    Raises:
        InputError: if another address than loopback is to be listened on, and anyone could use it.
    """
    if is_loopback(host) or auth_file is not None or insecure:
        return
    raise InputError(
        f"--host {host} can be reached from other machines, and anyone there could use the "
        "service; give --auth-file FILE with tokens (made by --new-token), or --insecure if "
        "something else guards it"
    )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
        (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(options: ServeOptions, started: Callable[[str], None] | None = None) -> None:
    """Run the service until it is told to end; running requests are finished first.

    Raises:
        InputError: if the extra is missing, anybody would be let in, or there is no such
            bundle, device, operating point, or file of tokens.
        WeightsError: if the bundle's weights cannot be used.
    """
    check_web_support()
    check_exposure(options.host, auth_file=options.auth_file, insecure=options.insecure)

    from busi_monai.serving.credentials import Credentials

    # what is wrong with the options is told before seconds of imports
    find_bundle(options.bundle or DEFAULT_BUNDLE)
    credentials = None if options.auth_file is None else Credentials.load(options.auth_file)
    listening = bound_socket(options.host, options.port)

    import uvicorn

    from busi_monai.inference import Predictor
    from busi_monai.serving.application import application, own_names
    from busi_monai.serving.connections import ImpatientProtocol
    from busi_monai.serving.keeping import Keeper
    from busi_monai.serving.service import PredictionService

    record = RunRecord()
    predictor = Predictor.load(
        options.bundle, options.device, operating_point=options.operating_point
    )
    keeper = None
    if options.keep is not None:
        kept = {**record.as_dict(), **predictor.provenance()}
        keeper = Keeper(options.keep, predictor.settings.classes, kept)
    service = PredictionService(predictor, options.limits, keeper)
    service.decoding.start()
    app = application(
        service,
        credentials=credentials,
        hosts=[*own_names(), options.host, *options.allow_hosts],
        page=options.page,
    )
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        log_level="warning",
        access_log=False,  # it would name addresses and users
        server_header=False,
        proxy_headers=False,  # a client could call itself anything
        ws_max_size=1_000_000,
        limit_concurrency=1000,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=math.ceil(options.limits.seconds),
    )
    # at the start NiceGUI looks at every object there is, some of torch's among them
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*reduce_op")
    listening.listen(128)
    if started is not None:
        started(_address(listening))
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        service.decoding.close()


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that nobody else has, before anything slow is done.

    Raises:
        InputError: if the address is taken or not this machine's.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        other = "--host" if isinstance(error, socket.gaierror) else "--port"
        reason = error.strerror or error
        raise InputError(
            f"cannot listen on {host} port {port}: {reason}; choose another {other}"
        ) from error
    return made


def _address(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
