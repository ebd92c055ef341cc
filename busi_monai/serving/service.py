"""The one place where images of a request are predicted, for REST and for the page."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import anyio
import anyio.to_thread
import numpy as np

from busi_monai.cases import PredictionWarning
from busi_monai.errors import ImageReadError
from busi_monai.inference import Predictor
from busi_monai.io.decoding import DecodingPool
from busi_monai.serving.answers import ImageResult, warnings_of
from busi_monai.serving.keeping import Keeper
from busi_monai.serving.limits import CapacityLimit, Limits
from busi_monai.serving.problems import ApiError, ServiceError
from busi_monai.serving.uploads import Upload, UploadedImages, images_of

__all__ = ["PredictionService"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_WAITING_REQUESTS = 4
"""The largest requests that all pages together may have waiting."""


class PredictionService:
    """Predicts uploads within limits, so many at a time, outside of the event loop.

    Args:
        predictor: at the operating point that holds unless a request names another.
        limits: of the service.
        keeper: keeps what was predicted, if anything is to be kept.
        decoding: decodes the uploads; by default a pool of its own.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits | None = None,
        keeper: Keeper | None = None,
        decoding: DecodingPool | None = None,
    ) -> None:
        self.predictor = predictor
        self.limits = limits or Limits()
        self.keeper = keeper
        self.decoding = decoding or DecodingPool()
        self.identity = predictor.identity()
        places = self.limits.concurrency + self.limits.queue
        self.places = CapacityLimit(places, f"{places} requests are in work or waiting", 2)
        most = _WAITING_REQUESTS * self.limits.max_bytes
        self.waiting_bytes = CapacityLimit(most, "too much is waiting", 5)
        self._free = anyio.Semaphore(self.limits.concurrency)
        self._gathering = anyio.Lock()  # else two that want all would each wait for the other
        self._threads = anyio.CapacityLimiter(self.limits.concurrency)
        self._predictors: dict[str | None, Predictor] = {predictor.operating_point: predictor}
        self._making = threading.Lock()

    def operating_points(self) -> list[str]:
        """Return the names at which malignancy can be decided."""
        return list(self.predictor.settings.operating_points)

    def check_operating_point(self, name: str | None) -> None:
        """Check that there is an operating point of that name.

        Raises:
            ServiceError: 422 naming those that there are.
        """
        if name is not None and name not in self.predictor.settings.operating_points:
            known = ", ".join(self.operating_points()) or "none; busi-monai calibrate fits some"
            message = f"no operating point {name!r}; there are: {known}"
            raise ServiceError(422, "unknown_operating_point", message)

    def predictor_at(self, name: str | None) -> Predictor:
        """Return the predictor that decides at an operating point, the weights shared."""
        with self._making:
            if name not in self._predictors:
                self._predictors[name] = self.predictor.at(name)
            return self._predictors[name]

    async def in_turn(self, work: Callable[[], Result], *, alone: bool = False) -> Result:
        """Run something heavy in a thread, when it is its turn.

        Raises:
            ServiceError: 503 if its turn did not come in time.
        """
        wanted = self.limits.concurrency if alone else 1
        taken = 0
        try:
            with anyio.fail_after(self.limits.seconds):
                async with self._gathering:
                    for _ in range(wanted):
                        await self._free.acquire()
                        taken += 1
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        except TimeoutError:
            message = f"no prediction could be begun within {self.limits.seconds:g} s; try later"
            raise ServiceError(503, "busy", message, retry_after=5) from None
        finally:
            for _ in range(taken):
                self._free.release()

    def results(
        self, uploads: Sequence[Upload], operating_point: str | None = None
    ) -> Iterator[ImageResult]:
        """Predict every image of some uploads, going on past those that fail; use ``in_turn``."""
        ends = time.monotonic() + self.limits.seconds
        predictor = self.predictor_at(operating_point)
        for upload in uploads:
            if time.monotonic() > ends:
                yield self._timed_out(upload, upload.id)
                continue
            try:
                found = images_of(upload, self.limits, self.decoding)
            except ImageReadError as error:
                problem = ApiError("unreadable", str(error), upload.name)
                yield ImageResult(upload.id, upload.name, problem=problem)
                continue
            except Exception:
                yield _failed(upload, upload.id)
                continue
            yield from self._predict_images(predictor, upload, found, ends)

    def _predict_images(
        self, predictor: Predictor, upload: Upload, found: UploadedImages, ends: float
    ) -> Iterator[ImageResult]:
        left_out = _left_out(found)
        for id, image in found.images:
            if time.monotonic() > ends:
                yield self._timed_out(upload, id, image.frame)
                continue
            try:
                prediction = predictor.predict(self.decoding.read(image))
                if self.keeper is not None:
                    self.keeper.add(prediction, frame=image.frame)
            except ImageReadError as error:
                problem = ApiError("unreadable", str(error), upload.name)
                yield ImageResult(id, upload.name, image.frame, problem=problem)
            except Exception:
                yield _failed(upload, id, image.frame)
            else:
                warned = warnings_of(prediction, predictor.settings.image_size)
                # the probabilities of all pixels of a long loop would fill the memory
                light = replace(prediction, lesion_probability=np.zeros((0, 0), np.float32))
                yield ImageResult(
                    id, upload.name, image.frame, light, warnings=(*warned, *left_out)
                )

    def _timed_out(self, upload: Upload, id: str, frame: int | None = None) -> ImageResult:
        message = f"{upload.name}: not begun within {self.limits.seconds:g} s; send less"
        return ImageResult(
            id, upload.name, frame, problem=ApiError("timed_out", message, upload.name)
        )


def _left_out(found: UploadedImages) -> list[PredictionWarning]:
    shown = len(found.images)
    if shown == found.frames:
        return []
    message = f"of {found.frames} frames {shown} were predicted, evenly spaced over the loop"
    return [PredictionWarning("frames_left_out", message)]


def _failed(upload: Upload, id: str, frame: int | None = None) -> ImageResult:
    """Tell an error of ours without its words, which may hold values of the file."""
    logger.exception("a prediction failed")
    message = f"{upload.name}: the prediction failed; the server's log tells why"
    return ImageResult(id, upload.name, frame, problem=ApiError("internal", message, upload.name))
