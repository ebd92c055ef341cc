"""The gate that every request and websocket passes: host, origin, who, how often."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from busi_monai.serving.credentials import Credentials
from busi_monai.serving.headers import SECURITY_HEADERS
from busi_monai.serving.limits import RateLimiter
from busi_monai.serving.problems import ServiceError, send_problem

__all__ = ["Guard"]

_FAILURES_PER_MINUTE = 10
_READS = {"GET", "HEAD", "OPTIONS"}
_CHALLENGE = (b"www-authenticate", b'Basic realm="busi-monai", charset="UTF-8"')


class Guard:
    """Lets pass who may.

    Websockets are looked at like requests, which middleware built on Starlette's
    ``BaseHTTPMiddleware`` does not do.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        credentials: Credentials | None,
        rates: RateLimiter,
        pages: Collection[str] = ("/ui", "/ui/"),
    ) -> None:
        self._app = app
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        self._credentials = credentials
        self._rates = rates
        self._pages = frozenset(pages)
        self._failures = RateLimiter(_FAILURES_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or a websocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ServiceError as refusal:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
            challenge = [_CHALLENGE] if refusal.status == 401 else []
            await send_problem(send, refusal, [*SECURITY_HEADERS, *challenge])
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        if not self._may_be_called(host):
            raise ServiceError(
                400,
                "unknown_host",
                "the service is not called by this name; start it with --allow-host NAME",
            )
        writes = scope["type"] == "websocket" or scope["method"] not in _READS
        origin = headers.get("origin")
        if writes and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ServiceError(403, "foreign_origin", "another site's page sent this request")
        address = (scope.get("client") or ("unknown",))[0]
        client = self._who(headers.get("authorization", ""), address)
        costs = scope["type"] == "http" and (writes or scope["path"] in self._pages)
        wait = self._rates.wait(client) if costs else 0
        if wait:
            raise _too_many(
                f"more requests than allowed; send it again in {math.ceil(wait)} s", wait
            )

    def _who(self, authorization: str, address: str) -> str:
        """Return who is counted: the token's name, or without credentials the address."""
        if self._credentials is None:
            return address
        name = self._credentials.owner(authorization)
        if name is not None:
            return f"user {name}"
        wait = self._failures.wait(address, cost=1 if authorization else 0)
        if wait:
            raise _too_many(f"too many wrong tokens; try again in {math.ceil(wait)} s", wait)
        raise ServiceError(
            401,
            "who_are_you",
            "expected Authorization: Bearer TOKEN, or the token as password with any user name",
        )

    def _may_be_called(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.rstrip(".") in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _too_many(message: str, wait: float) -> ServiceError:
    return ServiceError(429, "too_many_requests", message, retry_after=math.ceil(wait))
