"""Every epoch and process draws from its own seed, so that a resumed run continues unchanged."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed
from ignite.engine import Engine, Events

__all__ = ["EpochSeed", "epoch_seed"]


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return the seed of an epoch in one of several processes, below 2³².

    Args:
        seed: the run's seed.
        epoch: counted from 1.
        rank: of the process; 0 where there is only one.

    Examples:
        >>> epoch_seed(0, 1), epoch_seed(0, 1, rank=1)
        (3964924996, 901243215)
    """
    words = [seed, epoch, rank] if rank else [seed, epoch]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class EpochSeed:
    """Handler that seeds sampling, augmentation and dropout at the start of every epoch.

    Each process of a training on several GPUs draws its own augmentation and dropout.

    Args:
        seed: the run's seed; the process of rank r draws epoch e from (seed, e, r).
        transform: the training transform (a ``Compose``), whose random parts are seeded too.
    """

    def __init__(self, seed: int, transform: Any = None) -> None:
        self.seed = seed
        self.transform = transform

    def attach(self, engine: Engine) -> None:
        """Seed before the epoch's first batch is drawn."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed every generator in use from (seed, epoch, rank)."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = epoch_seed(self.seed, engine.state.epoch, rank)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - MONAI's transforms may draw from it
        torch.manual_seed(seed)
        if self.transform is not None:
            self.transform.set_random_state(seed=seed)
