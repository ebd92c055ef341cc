"""What the service lets a client ask for: bytes, pixels, frames, time, places, rate."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from busi_monai.errors import InputError
from busi_monai.serving.problems import ServiceError

__all__ = ["CapacityLimit", "Limits", "RateLimiter"]

_REMEMBERED_CLIENTS = 10_000


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        max_bytes: size of a request, all its files together.
        max_files: number of files in a request.
        max_pixels: rows times columns of an image, or of one frame of a loop.
        max_frames: frames of a loop that are predicted; of a longer one as many, evenly spaced.
        seconds: time for an upload to arrive, for a place to become free, and for the predictions
            of one request; frames that are not begun by then are told as timed out.
        concurrency: predictions at the same time.
        queue: requests that may wait beside those; one more is refused with 503.
        per_minute: requests of one client, 0 for any number; one more is refused with 429.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_files: int = 16
    max_pixels: int = 32_000_000
    max_frames: int = 64
    seconds: float = 60.0
    concurrency: int = 1
    queue: int = 16
    per_minute: int = 120

    def __post_init__(self) -> None:
        """Check the values, naming the field that is wrong."""
        for field in fields(self):
            lowest = 0 if field.name in {"queue", "per_minute"} else 1
            value = getattr(self, field.name)
            if field.name == "seconds":
                if not value > 0:
                    raise InputError(f"seconds must be above 0, got {value}")
            elif value < lowest:
                raise InputError(f"{field.name} must be at least {lowest}, got {value}")


class CapacityLimit:
    """Requests, or bytes, that may be in work and waiting at the same time.

    To be used from one event loop.

    Args:
        number: how many.
        message: what a refusal says.
        retry_after: seconds after which to try again.

    Examples:
        >>> places = CapacityLimit(1, "1 request is in work", 2)
        >>> with places.taken(), places.taken():
        ...     pass
        Traceback (most recent call last):
        busi_monai.serving.problems.ServiceError: busy: 1 request is in work; send it again in 2 s
    """

    def __init__(self, number: int, message: str, retry_after: int) -> None:
        self.number = number
        self.used = 0
        self._message = f"{message}; send it again in {retry_after} s"
        self._retry_after = retry_after

    @contextmanager
    def taken(self, size: int = 1) -> Iterator[None]:
        """Hold some for the time of a ``with`` block.

        Raises:
            ServiceError: 503 if they are too many.
        """
        if self.used + size > self.number:
            raise ServiceError(503, "busy", self._message, retry_after=self._retry_after)
        self.used += size
        try:
            yield
        finally:
            self.used -= size


class RateLimiter:
    """How many requests each client may send: so many at once, then one as time goes by.

    Args:
        per_minute: requests of a client, 0 for any number.
        clock: tells seconds.

    Examples:
        >>> now = [0.0]
        >>> rates = RateLimiter(2, clock=lambda: now[0])
        >>> rates.wait("a"), rates.wait("a"), rates.wait("a"), rates.wait("b")
        (0.0, 0.0, 30.0, 0.0)
        >>> now[0] = 30.0
        >>> rates.wait("a"), rates.wait("a")
        (0.0, 30.0)
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, cost: float = 1.0) -> float:
        """Count a request and return 0, or the seconds to wait if there are too many."""
        if not self._per_minute:
            return 0.0
        now = self._clock()
        left, seen = self._left.pop(client, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - seen) * self._per_minute / 60)
        refused = left < max(cost, 1.0)
        self._left[client] = (left if refused else left - cost, now)
        while len(self._left) > _REMEMBERED_CLIENTS:
            self._left.popitem(last=False)
        return (1 - left) * 60 / self._per_minute if refused else 0.0
