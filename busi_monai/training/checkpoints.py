"""The weights' average, ``last.pt`` to continue from, ``model.pt`` to use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from busi_monai.errors import BusiMonaiError, InputError, WeightsError
from busi_monai.files import atomic_file
from busi_monai.networks.weights import save_tensors
from busi_monai.training.distributed import is_first_process

__all__ = ["ModelEma", "RunCheckpoint"]

logger = logging.getLogger(__name__)

_LENGTHS = ("total_steps", "total_iters", "T_max")
"""Where the state of torch's schedules holds the length that they are laid out for."""


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


def _warmed_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Average over fewer steps at first, so that the random start is soon forgotten."""

    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        done = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(averaged, current, updates)

    return update


class RunCheckpoint:
    """Handler that saves a run after every epoch and continues it after an interrupt.

    ``model.pt`` is the flat state dict of the network to use, written when the evaluator's key
    metric is at its best (or every epoch as long as nothing was validated). ``last.pt`` holds
    everything that training depends on. Both load with ``weights_only=True``. Of several processes
    all load, and only the first one saves.

    Args:
        folder: where both files go.
        network: the trained network.
        average: its moving average; ``average.network`` is what ``model.pt`` holds.
        optimizer: the optimiser.
        lr_scheduler: the learning-rate scheduler.
        evaluator: the validating engine, with the best metric and its epoch in its state.
        early_stop: MONAI's ``EarlyStopHandler``, whose counter continues too.
        resume: load ``last.pt`` when the trainer starts; without such a file, start anew.

    Raises:
        WeightsError: (when the trainer starts) if ``last.pt`` is not of plain tensors, is damaged
            or belongs to another network or optimiser.
        InputError: (when the trainer starts) if its epochs have another number of iterations now,
            or the schedule is laid out for another number of epochs.
        BusiMonaiError: (at the end of an epoch) if a file cannot be written; the one before it is
            untouched.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        average: ModelEma,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        evaluator: Engine | None = None,
        early_stop: Any = None,
        *,
        resume: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.last, self.best = self.folder / "last.pt", self.folder / "model.pt"
        self.parts: dict[str, Any] = {
            "network": network,
            "average": average,
            "optimizer": optimizer,
            "lr_scheduler": lr_scheduler,
        }
        self.average = average
        self.evaluator = evaluator
        self.early_stop = early_stop
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        """Load when the trainer starts, save after every epoch, behind the validation handler."""
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        if not is_first_process():
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state["progress"] = self._progress(engine)
        if getattr(engine, "scaler", None) is not None:
            state["scaler"] = engine.scaler.state_dict()
        if self._is_best(engine):
            _save_tensors(self.average.network.state_dict(), self.best)
        _save_tensors(state, self.last)

    def _is_best(self, engine: Engine) -> bool:
        if self.evaluator is None:
            return True
        # MONAI's -1: no validation yet, so that the newest weights are the best known
        return self.evaluator.state.best_metric_epoch in {-1, engine.state.epoch}

    def _progress(self, engine: Engine) -> dict[str, Any]:
        progress = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "max_epochs": engine.state.max_epochs,
            "epoch_length": engine.state.epoch_length,
        }
        if self.evaluator is not None:
            progress["best_metric"] = float(self.evaluator.state.best_metric)
            progress["best_metric_epoch"] = self.evaluator.state.best_metric_epoch
        stopping = self._stopping()
        if stopping is not None and stopping.best_score is not None:
            progress["stop_counter"] = stopping.counter
            progress["stop_best_score"] = float(stopping.best_score)
        return progress

    def _stopping(self) -> EarlyStopping | None:
        # MONAI keeps ignite's handler private and gives no state_dict of its own
        return getattr(self.early_stop, "_handler", None)

    def _load(self, engine: Engine) -> None:
        if not self.resume or not self.last.is_file():
            return
        state = _load_tensors(self.last)
        try:
            _check_length(engine, state["progress"], self.last)
            _check_schedule(engine, state, self.parts["lr_scheduler"].state_dict(), self.last)
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except InputError:
            raise
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise _misfit(self.last, error) from error
        if getattr(engine, "scaler", None) is not None and "scaler" in state:
            engine.scaler.load_state_dict(state["scaler"])
        self._continue(engine, state["progress"])

    def _continue(self, engine: Engine, progress: dict[str, Any]) -> None:
        engine.state.epoch = progress["epoch"]
        engine.state.iteration = progress["iteration"]
        if self.evaluator is not None:
            self.evaluator.state.best_metric = progress["best_metric"]
            self.evaluator.state.best_metric_epoch = progress["best_metric_epoch"]
        logger.info("continuing %s after epoch %d", self.folder.parent, progress["epoch"])
        stopping = self._stopping()
        if stopping is not None and "stop_counter" in progress:
            stopping.counter = progress["stop_counter"]
            stopping.best_score = progress["stop_best_score"]
            if stopping.counter >= stopping.patience:
                logger.info("training had stopped early: nothing is left to do")
                engine.terminate()


def _check_length(engine: Engine, progress: dict[str, Any], path: Path) -> None:
    before, now = progress["epoch_length"], engine.state.epoch_length
    if before != now:
        raise InputError(
            f"{path}: the run was started with {before} iterations an epoch, now there are {now}; "
            "resume it with the same datasets and settings, or start a new run"
        )


def _check_schedule(
    engine: Engine, state: dict[str, Any], schedule: dict[str, Any], path: Path
) -> None:
    """Refuse to go on with a schedule of another length, which would end elsewhere."""
    if any(state["lr_scheduler"].get(name) != schedule.get(name) for name in _LENGTHS):
        before, now = state["progress"]["max_epochs"], engine.state.max_epochs
        raise InputError(
            f"{path}: the run was started with {before} epochs, now there are {now}, and its "
            f"learning-rate schedule is laid out for {before}; resume it with these, or start a "
            "new run"
        )


def _misfit(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} belongs to another architecture or is no checkpoint of a training; resume with "
        f"the configuration that the run was started with ({type(error).__name__}: "
        f"{_first_line(error)})"
    )


def _save_tensors(state: dict[str, Any], path: Path) -> None:
    try:
        with atomic_file(path) as partial:
            save_tensors(state, partial)
    except OSError as error:
        raise BusiMonaiError(
            f"{path} cannot be written: {error.strerror}. The file of the epoch before it is "
            "intact: make room, then resume the run"
        ) from error


def _load_tensors(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises pickle, zip, runtime and value errors for what is no plain checkpoint
        raise WeightsError(
            f"{path} is refused: it is damaged, or holds pickled objects instead of plain tensors "
            f"({_first_line(error)}); remove it to start the run anew"
        ) from error
    return loaded


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
