"""Images for TensorBoard: image, true mask and predicted mask side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

__all__ = ["ImageTriplets"]


class ImageTriplets:
    """Handler that shows the first validation images as (image, true mask, predicted mask).

    Args:
        writer: a ``SummaryWriter``.
        count: how many images.
        interval: show every so many validations, the first of a session included.
    """

    def __init__(self, writer: Any, count: int = 4, interval: int = 5) -> None:
        self.writer = writer
        self.count = count
        self.interval = interval
        self._validations = 0
        self._shown = 0

    def attach(self, engine: Engine) -> None:
        """Write while the evaluator runs."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._validations += 1
        self._shown = 0

    def __call__(self, engine: Engine) -> None:
        """Add the images of a batch until enough are shown."""
        if (self._validations - 1) % self.interval:
            return
        for item, predicted in zip(engine.state.batch, engine.state.output, strict=True):
            if self._shown >= self.count or "seg" not in predicted or "label" not in item:
                return
            panels = [_unit(item["image"][0]), _unit(item["label"][0]), predicted["seg"][0] > 0]
            image = np.concatenate([np.asarray(panel, dtype=np.float32) for panel in panels], 1)
            self.writer.add_image(
                f"validation/{self._shown}", image[None], global_step=engine.state.epoch
            )
            self._shown += 1


def _unit(values: torch.Tensor) -> torch.Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-6)
