"""Connections that must say what they want: half a request does not keep one for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["ImpatientProtocol"]

_SECONDS = 10.0


class ImpatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol, which closes a connection whose request line and headers do not come.

    uvicorn itself waits for the next request, but not for the rest of one that began.
    """

    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came; if it is not a whole head yet, the rest must follow soon."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._has_request():
            self._stop_waiting()
        elif self._impatience is None:
            loop = asyncio.get_running_loop()
            self._impatience = loop.call_later(_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _has_request(self) -> bool:
        """Whether one is in work, or the connection became a websocket."""
        cycle = self.cycle
        in_work = cycle is not None and not cycle.response_complete
        return in_work or self.transport.get_protocol() is not self

    def _give_up(self) -> None:
        self._impatience = None
        if not self._has_request() and not self.transport.is_closing():
            self.transport.close()
