"""Several processes, one a GPU: who draws which pictures, and who writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from monai.handlers import LrScheduleHandler, MetricsSaver, ValidationHandler
from torch.utils.data import DistributedSampler, Sampler

from busi_monai.training.averaging import UpdateAverage
from busi_monai.training.checkpoints import RunCheckpoint
from busi_monai.training.data import training_sampler
from busi_monai.training.reproducibility import EpochSeed
from busi_monai.training.scores import TrainingScores

__all__ = ["distributed_sampler", "handlers_of_rank"]


class _DrawnSampler(Sampler[int]):
    """Each process takes its share of what the plain sampler draws for all."""

    def __init__(self, sampler: Sampler[int]) -> None:
        self._sampler = sampler
        self._shares: DistributedSampler[Any] = DistributedSampler(
            range(len(sampler)),  # type: ignore[arg-type]
            shuffle=False,
            drop_last=True,
        )

    def __iter__(self) -> Any:
        drawn = list(self._sampler)
        return (drawn[position] for position in self._shares)

    def __len__(self) -> int:
        return len(self._shares)


def distributed_sampler(items: Sequence[dict[str, Any]], *, balance: str = "none") -> Sampler[int]:
    """Return this process's share of an epoch, the shares of all being disjoint draws.

    ``EpochSeed`` brings torch's generator to the same state in all processes, so that all draw the
    same epoch before they take their shares of it.

    Args:
        items: the training items.
        balance: how the classes are balanced; see ``training_sampler``.
    """
    return _DrawnSampler(training_sampler(items, balance=balance))


def handlers_of_rank(handlers: Sequence[Any]) -> list[Any]:
    """Return the handlers of this process: all in the first, those that steer in the others.

    ``MetricsSaver`` gathers from all processes, and ``RunCheckpoint`` loads in all; both write in
    the first one only.
    """
    if torch.distributed.get_rank() == 0:
        return list(handlers)
    steering = (
        EpochSeed,
        LrScheduleHandler,
        MetricsSaver,
        RunCheckpoint,
        TrainingScores,
        UpdateAverage,
        ValidationHandler,
    )
    return [handler for handler in handlers if isinstance(handler, steering)]
