"""Every epoch draws from its own seed, so that a resumed run continues as if never stopped."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

__all__ = ["EpochSeed"]


class EpochSeed:
    """Handler that seeds sampling, augmentation and dropout at the start of every epoch.

    Args:
        seed: the run's seed; epoch e draws from (seed, e).
        transform: the training transform (a ``Compose``), whose random parts are seeded too.
    """

    def __init__(self, seed: int, transform: Any = None) -> None:
        self.seed = seed
        self.transform = transform

    def attach(self, engine: Engine) -> None:
        """Seed before the epoch's first batch is drawn."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed every generator in use from (seed, epoch)."""
        epoch_seed = int(
            np.random.SeedSequence([self.seed, engine.state.epoch]).generate_state(1)[0]
        )
        random.seed(epoch_seed)
        np.random.seed(epoch_seed)  # noqa: NPY002 - MONAI's transforms may draw from it
        torch.manual_seed(epoch_seed)
        if self.transform is not None:
            self.transform.set_random_state(seed=epoch_seed)
