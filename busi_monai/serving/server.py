"""Runs the service: loads the model, listens, and ends well."""

from __future__ import annotations

import ipaddress
import math
import socket
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.errors import InputError
from busi_monai.records import RunRecord
from busi_monai.serving.limits import Limits

__all__ = ["bound_socket", "check_web_support", "serve"]


NEEDED = ("fastapi", "uvicorn", "python_multipart", "nicegui")


def check_web_support() -> None:
    """Check that what the service is built on is installed.

    Raises:
        InputError: naming the extra that is not installed.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the web service needs {', '.join(missing)}, which is not installed; run pip install "
            "'busi-monai[web]'"
        )


def _check_exposure(host: str, auth_file: Path | None, insecure: bool) -> None:
    """Check that nobody is let in by mistake.

    Raises:
        InputError: if another address than loopback is to be listened on, and anyone could use it.
    """
    if _is_loopback(host) or auth_file is not None or insecure:
        return
    raise InputError(
        f"--host {host} can be reached from other machines, and anyone there could use the "
        "service; give --auth-file FILE with tokens (made by --new-token), or --insecure if "
        "something else guards it"
    )


def _is_loopback(host: str) -> bool:
    """Whether an address is this machine's own.

    Examples:
        >>> [_is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "")]
        [True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    *,
    model: str | None,
    host: str,
    port: int,
    device: str,
    operating_point: str | None,
    auth_file: Path | None,
    insecure: bool,
    allow_hosts: Sequence[str],
    keep: Path | None,
    page: bool,
    limits: Limits,
    started: Callable[[str], None],
) -> None:
    """Run the service until it is told to end; running requests are finished first.

    Args:
        model: name of a shipped bundle, or folder of a bundle or run; ``None`` for the default.
        host: address to listen on.
        port: to listen on; 0 for a free one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        operating_point: where malignancy is decided unless a request says otherwise.
        auth_file: tokens; see ``busi_monai.serving.credentials``.
        insecure: whether anyone who reaches another address than loopback is let in.
        allow_hosts: further names by which the service may be called.
        keep: folder in which rows and masks are kept; ``None`` keeps nothing.
        page: whether there is a page beside REST.
        limits: of the service.
        started: called with the service's address once it listens.

    Raises:
        InputError: if the extra is missing, anybody would be let in, or there is no such
            bundle, device, operating point, or file of tokens.
        WeightsError: if the bundle's weights cannot be used.
    """
    check_web_support()
    _check_exposure(host, auth_file, insecure)

    from busi_monai.serving.credentials import Credentials

    # what is wrong with the options is told before seconds of imports
    find_bundle(model or DEFAULT_BUNDLE)
    credentials = None if auth_file is None else Credentials.load(auth_file)
    listening = bound_socket(host, port)

    import uvicorn

    from busi_monai.inference import Predictor
    from busi_monai.serving.application import application, own_names
    from busi_monai.serving.connections import ImpatientProtocol
    from busi_monai.serving.keeping import Keeper
    from busi_monai.serving.service import PredictionService

    record = RunRecord()
    predictor = Predictor.load(model, device, operating_point=operating_point)
    keeper = None
    if keep is not None:
        kept = {**record.as_dict(), **predictor.provenance()}
        keeper = Keeper(keep, predictor.settings.classes, kept)
    service = PredictionService(predictor, limits, keeper)
    service.decoding.start()
    app = application(
        service,
        credentials=credentials,
        hosts=[*own_names(), host, *allow_hosts],
        page=page,
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
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )
    # at the start NiceGUI looks at every object there is, some of torch's among them
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*reduce_op")
    listening.listen(128)
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
