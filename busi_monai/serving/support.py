"""Whether what the service is built on is installed."""

from __future__ import annotations

from importlib.util import find_spec

from busi_monai.errors import InputError

__all__ = ["check_web_support"]

NEEDED = ("fastapi", "uvicorn", "python_multipart", "nicegui")


def check_web_support() -> None:
    """Check that the service can run.

    Raises:
        InputError: naming the extra that is not installed.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the web service needs {', '.join(missing)}, which is not installed; run pip install "
            "'busi-monai[web]'"
        )
