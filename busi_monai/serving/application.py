"""The whole application: REST, the page, and what stands before them."""

from __future__ import annotations

import socket
from collections.abc import Collection

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.formparsers import MultiPartParser
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp

from busi_monai.serving.credentials import Credentials
from busi_monai.serving.limits import RateLimiter
from busi_monai.serving.middleware import Guard, LimitedBodies, SecurityHeaders
from busi_monai.serving.rest import rest_application
from busi_monai.serving.service import PredictionService

__all__ = ["LOOPBACK_NAMES", "application"]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def application(
    service: PredictionService,
    *,
    credentials: Credentials | None = None,
    hosts: Collection[str] = LOOPBACK_NAMES,
    page: bool = False,
) -> ASGIApp:
    """Return the service as an ASGI application.

    Args:
        service: predicts.
        credentials: who may use it; ``None`` for anyone who reaches it.
        hosts: names that it may be called by.
        page: whether there is a page in the browser; one in a process.
    """
    # uploads stay in memory: nothing of an image ever touches the disk
    MultiPartParser.spool_max_size = service.limits.max_bytes + 1
    api = rest_application(service)
    if page:
        _add_page(api, service)
    served: ASGIApp = LimitedBodies(api, service.limits, service.places)
    served = SecurityHeaders(served)
    served = GZipMiddleware(served, minimum_size=1000)
    rates = RateLimiter(service.limits.per_minute)
    return Guard(served, hosts=hosts, credentials=credentials, rates=rates)


def own_names() -> list[str]:
    """Return the names by which this machine calls itself."""
    name = socket.gethostname()
    return [*LOOPBACK_NAMES, name, socket.getfqdn(name)]


def _add_page(api: FastAPI, service: PredictionService) -> None:
    from busi_monai.serving.page import add_page

    add_page(api, service)

    @api.get("/", include_in_schema=False)
    async def to_the_page() -> RedirectResponse:
        return RedirectResponse("/ui/", status_code=307)
