"""Headers of every answer, and a content security policy for the page without ``unsafe-eval``."""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SECURITY_HEADERS", "SecurityHeaders"]

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]

_NOTHING = b"default-src 'none'; frame-ancestors 'none'"

# NiceGUI hides its body by an inline style until the page is ready; this is that style's hash
_HIDDEN_BODY = "'unsafe-hashes' 'sha256-ZdHxw9eWtnxUb3mk6tBS+gIiVUPE3pGM470keHPDFlE='"


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
        headers = list(message["headers"])
        given = {name.lower() for name, _ in headers}
        headers += [pair for pair in SECURITY_HEADERS if pair[0] not in given]
        is_page = b"x-nicegui-content" in given
        if self._private and b"cache-control" not in given:
            headers.append((b"cache-control", b"no-store"))
        if is_page:
            headers.append((b"content-security-policy", page_policy(self._nonce).encode()))
        elif b"content-security-policy" not in given:
            headers.append((b"content-security-policy", _NOTHING))
        dressed = {**message, "headers": headers}
        if is_page:
            self._held = dressed
        else:
            await self._send(dressed)

    async def _complete(self) -> None:
        nonced = rf'<\1 nonce="{self._nonce}"'.encode()
        body = re.sub(rb"<(script|style)(?=[\s>])", nonced, bytes(self._page))
        held, self._held = self._held or {}, None
        headers = [pair for pair in held["headers"] if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**held, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def page_policy(nonce: str) -> str:
    """Return the page's content security policy."""
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; "
        f"style-src 'self' 'nonce-{nonce}' {_HIDDEN_BODY}; img-src 'self' data: blob:; "
        "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
