"""Exponential moving average of the weights, which is what gets validated and saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["ModelEma", "UpdateEma"]

Tensors = tuple[Tensor, ...] | list[Tensor]


class ModelEma:
    """A moving average of a network's weights and buffers; ``UpdateEma`` keeps it moving.

    Args:
        network: the network that is trained.
        decay: per iteration, ``average = decay * average + (1 - decay) * weights``; 0 turns
            averaging off, and ``network`` is then the trained network itself.
        every: iterations between updates; the decay is raised to that power, so that the average
            spans the same time at a fraction of the cost.

    Attributes:
        network: the network to validate and to save.
    """

    def __init__(self, network: nn.Module, decay: float = 0.0, every: int = 4) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.trained = network
        self.decay = decay
        self.every = every
        self._average = (
            AveragedModel(network, multi_avg_fn=_warmed_average(decay**every), use_buffers=True)
            if decay
            else None
        )

    @property
    def network(self) -> nn.Module:
        """The averaged network, or the trained one where averaging is off."""
        return self.trained if self._average is None else self._average.module

    def update(self) -> None:
        """Let the trained weights flow in; to be called every ``every`` iterations."""
        if self._average is not None:
            self._average.update_parameters(self.trained)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average's state for a checkpoint; empty where averaging is off."""
        return {} if self._average is None else self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue an average from a checkpoint."""
        if self._average is not None:
            self._average.load_state_dict(state)


class UpdateEma:
    """Handler that updates a ``ModelEma`` while the trainer runs."""

    def __init__(self, average: ModelEma) -> None:
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Update after every ``average.every`` iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.average.every), self)

    def __call__(self, engine: Engine) -> None:
        """Update the average."""
        self.average.update()


def _warmed_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Average over fewer steps at first, so that the random start is soon forgotten."""

    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        done = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(averaged, current, updates)

    return update
