"""In which order, and how often, an epoch takes the training images, in one process or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler, RandomSampler, Sampler, WeightedRandomSampler

from busi_monai.errors import InputError
from busi_monai.training.distributed import batch_share, process_count, process_rank

__all__ = ["BALANCES", "epoch_seed", "training_sampler"]

BALANCES = ("none", "sampling", "augmentation")


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return the seed of an epoch (from 1) in the process of a rank, below 2³².

    Examples:
        >>> epoch_seed(0, 1), epoch_seed(0, 1, rank=1)
        (3964924996, 901243215)
    """
    words = [seed, epoch, rank] if rank else [seed, epoch]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def training_sampler(
    items: Sequence[dict[str, Any]],
    *,
    balance: str = "none",
    seed: int = 0,
    batch_size: int | None = None,
) -> Sampler[int]:
    """Return a sampler over one epoch of items.

    It draws from torch's global generator, which ``EpochSeed`` seeds. Of several processes, all
    draw the epoch that one process would draw, and each takes its share of every batch.

    Args:
        items: the training items, for their ``class_label``.
        balance: one of ``BALANCES``. ``none``: every item once. ``sampling``: as many draws, with
            replacement, so that every class is seen equally often. ``augmentation``: every item
            once, and those of the rarer classes again, each time augmented anew, until all classes
            have as many as the commonest: a longer epoch, in which nothing is left out.
        seed: the run's, for the draws that several processes share.
        batch_size: images in a batch of all processes together. Given it, the last batch is filled
            up with images from the epoch's start, so that all processes have as many of it, and at
            least two; one image alone is left out. ``None``: this process draws for itself.

    Raises:
        InputError: for an unknown ``balance``, a batch that cannot be divided among the processes,
            or for fewer than two items, which batch normalisation cannot train on.
    """
    if len(items) < 2:
        found = "1 case" if len(items) == 1 else f"{len(items)} cases"
        raise InputError(f"the split train has {found}; training needs at least 2")
    if balance not in BALANCES:
        raise InputError(f"class_balance must be one of {', '.join(BALANCES)}, got {balance!r}")
    labels = [item["class_label"] for item in items]
    sampler = _sampler(labels, balance)
    return sampler if batch_size is None else _SharedSampler(sampler, batch_size, seed)


def _sampler(labels: Sequence[int], balance: str) -> Sampler[int]:
    if balance == "none":
        return RandomSampler(labels)
    if balance == "augmentation":
        return _RepeatingSampler(labels)
    counts = Counter(labels)
    weights = [1.0 / counts[label] for label in labels]
    return WeightedRandomSampler(weights, num_samples=len(labels))


class _SharedSampler(DistributedSampler[int]):
    """All processes draw the same epoch, and each takes its share of every batch.

    MONAI's trainer calls ``set_epoch`` of a ``DistributedSampler``.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, seed: int) -> None:
        processes, share = process_count(), batch_share(batch_size)
        whole, rest = divmod(len(sampler), batch_size)  # type: ignore[arg-type]
        least = min(2, share) * processes
        last = max(least, -(-rest // processes) * processes) if rest > 1 else 0
        super().__init__(
            range(whole * batch_size + last),  # type: ignore[arg-type]
            num_replicas=processes,
            rank=process_rank(),
            shuffle=False,
            seed=seed,
        )
        self._sampler = sampler

    def __iter__(self) -> Iterator[int]:
        drawn = self._draw_alike() if self.num_replicas > 1 else list(self._sampler)
        filled = list(islice(cycle(drawn), self.total_size))
        return iter([filled[position] for position in list(super().__iter__())])

    def _draw_alike(self) -> list[int]:
        """Return the epoch that the first process would draw alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch_seed(self.seed, self.epoch))
            torch.empty((), dtype=torch.int64).random_()  # a loader's first draw, for its workers
            return list(self._sampler)


class _RepeatingSampler(Sampler[int]):
    """Every item once, and of the rarer classes as many more as the commonest has."""

    def __init__(self, labels: Sequence[int]) -> None:
        self._members = [
            [index for index, label in enumerate(labels) if label == wanted]
            for wanted in sorted(set(labels))
        ]
        self._each = max(map(len, self._members))

    def __iter__(self) -> Iterator[int]:
        epoch: list[int] = []
        for members in self._members:
            whole, rest = divmod(self._each, len(members))
            again = self._order(len(members))[:rest]
            epoch += members * whole + [members[position] for position in again]
        return iter([epoch[position] for position in self._order(len(epoch))])

    def _order(self, count: int) -> list[int]:
        order: list[int] = torch.randperm(count).tolist()
        return order

    def __len__(self) -> int:
        return self._each * len(self._members)
