"""Uploads on their way in: how large, how long, how many at once."""

from __future__ import annotations

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from busi_monai.serving.limits import ConcurrencyLimit, Limits
from busi_monai.serving.problems import ServiceError, send_problem

__all__ = ["LimitedBodies"]

_SECONDS_TO_DRAIN = 5.0


class LimitedBodies:
    """Refuses bodies that are too large, too slow, or for which there is no place."""

    def __init__(self, app: ASGIApp, limits: Limits, places: ConcurrencyLimit) -> None:
        self._app = app
        self._limits = limits
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        try:
            stated = _stated_length(scope)
            if stated is not None and stated > self._limits.max_bytes:
                raise self._too_large()
            with self._places.taken():
                await self._app(scope, self._limited(receive), send)
        except ClientDisconnect:
            return  # nobody is left to be answered
        except ServiceError as refusal:
            await self._drain(receive)
            await send_problem(send, refusal)

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


def _stated_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return None
