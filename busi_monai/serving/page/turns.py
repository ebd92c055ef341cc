"""What one page has in work: one thing after another, few waiting, none once it is closed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from busi_monai.errors import BusiMonaiError
from busi_monai.serving.limits import RateLimiter
from busi_monai.serving.problems import ServiceError
from busi_monai.serving.service import PredictionService

__all__ = ["PageTurns"]


class PageTurns:
    """Runs what a visitor asks for; to be used from one event loop.

    Websockets pass by the limits of requests, so that a page has limits of its own.
    """

    def __init__(self, service: PredictionService, complain: Callable[[str], None]) -> None:
        self._service = service
        self._complain = complain
        self._rates = RateLimiter(service.limits.per_minute)
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0
        self.closed = False

    def close(self) -> None:
        """Begin nothing any more."""
        self.closed = True

    async def run(
        self, work: Callable[[], Awaitable[None]], *, about: str = "", size: int = 0
    ) -> bool:
        """Do something when it is its turn; what is refused or fails is told.

        Returns:
            Whether it was done.
        """
        if self.closed:
            return False
        try:
            self._check()
            with self._service.waiting_bytes.taken(size):
                self._waiting += 1
                try:
                    return await self._in_turn(work)
                finally:
                    self._waiting -= 1
        except (BusiMonaiError, ServiceError) as error:
            if not self.closed:
                message = error.problem.message if isinstance(error, ServiceError) else str(error)
                self._complain(f"{about}: {message}" if about else message)
        except Exception:
            if not self.closed:  # elements of a page that is gone cannot be changed
                raise
        return False

    def _check(self) -> None:
        most = self._service.limits.max_files
        if self._waiting >= most:
            raise ServiceError(503, "busy", f"{most} things are waiting on this page; try later")
        wait = self._rates.wait("page")
        if wait:
            raise ServiceError(
                429, "too_many_requests", f"more than allowed; try again in {math.ceil(wait)} s"
            )

    async def _in_turn(self, work: Callable[[], Awaitable[None]]) -> bool:
        async with self._one_at_a_time:
            if self.closed:
                return False
            with self._service.places.taken():
                await work()
            return True
