"""Several processes, one a GPU: who draws which images, and who writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed
from monai.handlers import LrScheduleHandler, MetricsSaver, ValidationHandler
from torch.utils.data import DistributedSampler, Sampler

from busi_monai.training.averaging import UpdateEma
from busi_monai.training.checkpoints import RunCheckpoint
from busi_monai.training.data import training_sampler
from busi_monai.training.reproducibility import EpochSeed, epoch_seed
from busi_monai.training.scores import TrainingScores

__all__ = ["distributed_sampler", "handlers_of_rank"]


class _SharedSampler(DistributedSampler[int]):
    """All processes draw the same epoch, and each takes its share of it.

    MONAI's trainer calls ``set_epoch`` of a ``DistributedSampler``.
    """

    def __init__(self, sampler: Sampler[int], generator: torch.Generator, seed: int) -> None:
        count = len(sampler)  # type: ignore[arg-type]
        super().__init__(range(count), shuffle=False, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self._sampler = sampler
        self._generator = generator

    def __iter__(self) -> Iterator[int]:
        # as if by one more process: no other one draws from this seed
        self._generator.manual_seed(epoch_seed(self.seed, self.epoch, rank=self.num_replicas))
        drawn = list(self._sampler)
        return iter([drawn[position] for position in list(super().__iter__())])


def distributed_sampler(
    items: Sequence[dict[str, Any]], *, balance: str = "none", seed: int = 0
) -> Sampler[int]:
    """Return this process's share of an epoch, the shares of all being disjoint draws.

    Args:
        items: the training items.
        balance: how the classes are balanced; see ``training_sampler``.
        seed: the run's seed, the same in all processes.
    """
    if torch.distributed.get_world_size() == 1:
        return training_sampler(items, balance=balance)
    generator = torch.Generator()
    return _SharedSampler(
        training_sampler(items, balance=balance, generator=generator), generator, seed
    )


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
        UpdateEma,
        ValidationHandler,
    )
    return [handler for handler in handlers if isinstance(handler, steering)]
