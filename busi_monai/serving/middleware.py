"""What stands before REST and the page: who is let in, how large bodies are, headers of answers."""

from __future__ import annotations

import ipaddress
import math
import re
import secrets
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from busi_monai.serving.credentials import Credentials
from busi_monai.serving.limits import CapacityLimit, Limits, RateLimiter
from busi_monai.serving.problems import ServiceError, problem_response

__all__ = ["Guard", "LimitedBodies", "SecurityHeaders"]

_FAILURES_PER_MINUTE = 10
_READS = {"GET", "HEAD", "OPTIONS"}
_PAGES = {"/ui", "/ui/"}
"""Paths whose reading costs something, and is counted like a request with a body."""

_SECONDS_TO_DRAIN = 5.0

_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"

# NiceGUI hides its body by an inline style until the page is ready; this is that style's hash
_HIDDEN_BODY = "'unsafe-hashes' 'sha256-ZdHxw9eWtnxUb3mk6tBS+gIiVUPE3pGM470keHPDFlE='"


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
    ) -> None:
        self._app = app
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        self._credentials = credentials
        self._rates = rates
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
            headers = {**_SECURITY_HEADERS, **refusal.headers}
            if refusal.status == 401:
                headers["www-authenticate"] = 'Basic realm="busi-monai", charset="UTF-8"'
            answer = problem_response(refusal.status, refusal.problem, headers)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._may_be_called(host):
            raise ServiceError(
                400,
                "unknown_host",
                "the service is not called by this name; start it with --allow-host NAME",
            )
        writes = scope["type"] == "websocket" or scope["method"] not in _READS
        origin = headers.get("origin")
        if writes and origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise ServiceError(403, "foreign_origin", "another site's page sent this request")
        address = (scope.get("client") or ("unknown",))[0]
        client = self._who(headers.get("authorization", ""), address)
        costs = scope["type"] == "http" and (writes or scope["path"] in _PAGES)
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


class LimitedBodies:
    """Refuses bodies that are too large, too slow, or for which there is no place."""

    def __init__(self, app: ASGIApp, limits: Limits, places: CapacityLimit) -> None:
        self._app = app
        self._limits = limits
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        try:
            stated = Headers(scope=scope).get("content-length", "")
            if stated.isdigit() and int(stated[:20]) > self._limits.max_bytes:
                raise self._too_large()
            with self._places.taken():
                await self._app(scope, self._limited(receive), send)
        except ClientDisconnect:
            return  # nobody is left to be answered
        except ServiceError as refusal:
            await self._drain(receive)
            answer = problem_response(refusal.status, refusal.problem, refusal.headers)
            await answer(scope, receive, send)

    def _limited(self, receive: Receive) -> Receive:
        total = 0
        ends: float | None = None
        complete = False

        async def receive_limited() -> Message:
            nonlocal total, ends, complete
            if complete:  # what comes now is the client's going away, which may take its time
                return await receive()
            ends = ends or anyio.current_time() + self._limits.seconds
            try:
                with anyio.fail_after(ends - anyio.current_time()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the upload did not arrive within {self._limits.seconds:g} s"
                ) from None
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                complete = not message.get("more_body")
            if total > self._limits.max_bytes:
                raise HTTPException(413, self._too_large().problem.message)
            return message

        return receive_limited

    def _too_large(self) -> ServiceError:
        most = f"{self._limits.max_bytes:,}"
        message = f"the request is larger than {most} bytes; send fewer or smaller files"
        return ServiceError(413, "too_large", message)

    async def _drain(self, receive: Receive) -> None:
        """Read some of what is still sent, so that the client gets to read the answer."""
        total = 0
        with anyio.move_on_after(_SECONDS_TO_DRAIN):
            while total <= 2 * self._limits.max_bytes:
                message = await receive()
                total += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    break


class SecurityHeaders:
    """Adds the headers, and puts a nonce into the page's own scripts and styles.

    The page must arrive here uncompressed: put GZip outside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        dressed = _Dressed(send, private=not scope["path"].startswith("/ui/_nicegui/"))
        await self._app(scope, receive, dressed)


class _Dressed:
    """Sends an answer on with the headers; a page is held until it is complete."""

    def __init__(self, send: Send, *, private: bool) -> None:
        self._send = send
        self._private = private
        self._held: MutableMapping[str, Any] | None = None
        self._page = bytearray()
        self._nonce = secrets.token_urlsafe(16)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body" and self._held is not None:
            self._page.extend(message.get("body", b""))
            if not message.get("more_body"):
                await self._complete()
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        headers = MutableHeaders(raw=list(message["headers"]))
        is_page = "x-nicegui-content" in headers
        for name, value in _SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        if self._private:
            headers.setdefault("cache-control", "no-store")
        if is_page:
            headers["content-security-policy"] = _page_policy(self._nonce)
        else:
            headers.setdefault("content-security-policy", _NOTHING)
        dressed = {**message, "headers": headers.raw}
        if is_page:
            self._held = dressed
        else:
            await self._send(dressed)

    async def _complete(self) -> None:
        nonced = rf'<\1 nonce="{self._nonce}"'.encode()
        body = re.sub(rb"<(script|style)(?=[\s>])", nonced, bytes(self._page))
        held, self._held = self._held or {}, None
        MutableHeaders(raw=held["headers"])["content-length"] = str(len(body))
        await self._send(held)
        await self._send({"type": "http.response.body", "body": body})


def _page_policy(nonce: str) -> str:
    """Return the page's content security policy."""
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; "
        f"style-src 'self' 'nonce-{nonce}' {_HIDDEN_BODY}; img-src 'self' data: blob:; "
        "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
