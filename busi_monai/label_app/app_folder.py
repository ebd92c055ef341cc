"""The folder that a MONAI Label server is started with: writable, with a ``main.py``."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import find_bundle
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json, write_text
from busi_monai.outputs import check_place, holds_nothing

__all__ = [
    "SETTINGS_NAME",
    "check_monai_label",
    "check_port",
    "read_app_settings",
    "server_command",
    "start_server",
    "write_app_folder",
]

SETTINGS_NAME = "settings.json"
MAIN = '''"""The app: ``python -m monailabel.main start_server --app FOLDER --studies IMAGES``."""

from busi_monai.label_app.app import BreastUltrasoundApp

__all__ = ["BreastUltrasoundApp"]
'''


def write_app_folder(out: str | Path, bundle: str | Path, *, device: str = "auto") -> Path:
    """Write an app's folder, or set the bundle of one that is there; what is kept stays.

    Raises:
        InputError: if there is no such bundle, it has no weights, or the folder is not empty and
            no app.
    """
    found = find_bundle(bundle)
    weights = Bundle(found).weights
    if not weights.is_file():
        raise InputError(f"{weights} does not exist: a bundle without weights cannot be served")
    main = Path(out) / "main.py"
    own = main.is_file() and "BreastUltrasoundApp" in main.read_text("utf-8", errors="replace")
    if not (own and (Path(out) / SETTINGS_NAME).is_file()):
        check_place(out, [found])
        if not holds_nothing(out):
            raise InputError(
                f"{out} is not empty, and no app made by this command; choose another folder"
            )
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    shipped = found if str(bundle) != found.name else found.name
    write_text(main, MAIN)
    write_json(out / SETTINGS_NAME, {"bundle": str(shipped), "device": device})
    return out


def read_app_settings(folder: Path, conf: Mapping[str, str]) -> dict[str, Any]:
    """Return an app's settings, with what ``--conf`` says laid over them.

    Raises:
        InputError: if ``settings.json`` is damaged.
    """
    path = folder / SETTINGS_NAME
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return {**content, **conf}


def check_monai_label() -> None:
    """Refuse to start a server that is not installed.

    Raises:
        InputError: saying how to install it.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise InputError(
            "MONAI Label is not installed in this environment. It needs one of its own: run make "
            "label-env in a checkout, and start this command from .venv-label/bin; --no-start "
            "writes the app without it"
        )


def check_port(host: str, port: int) -> None:
    """Refuse an address that is taken, before the server's many imports.

    Raises:
        InputError: if nobody can listen there.
    """
    from busi_monai.serving.server import bound_socket  # needs what comes with MONAI Label

    bound_socket(host, port).close()


def server_command(app: Path, studies: Path, *, host: str, port: int) -> list[str]:
    """Return the command line that starts the server by this Python."""
    words = [sys.executable, "-m", "monailabel.main", "start_server"]
    words += ["--app", str(app), "--studies", str(studies)]
    return [*words, "--host", host, "--port", str(port)]


def start_server(words: list[str]) -> NoReturn:
    """Become the server: this process's signals, output and exit code are the server's."""
    sys.stdout.flush()
    os.execv(words[0], words)
