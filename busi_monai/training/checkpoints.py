"""``last.pt`` to continue from, ``model.pt`` to use: plain tensors, never half-written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import nn

from busi_monai.errors import BusiMonaiError, InputError, WeightsError
from busi_monai.files import atomic_file
from busi_monai.networks.weights import save_tensors
from busi_monai.training.averaging import ModelEma

__all__ = ["RunCheckpoint"]

logger = logging.getLogger(__name__)

_LENGTHS = ("total_steps", "total_iters", "T_max")
"""Where the state of torch's schedules holds the length that they are laid out for."""


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

    @property
    def last(self) -> Path:
        """The checkpoint that training continues from."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """The weights to use."""
        return self.folder / "model.pt"

    def attach(self, engine: Engine) -> None:
        """Load when the trainer starts, save after every epoch, behind the validation handler."""
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
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
        except (KeyError, TypeError, RuntimeError) as error:
            raise _misfit(self.last, error) from error
        except ValueError as error:
            if isinstance(error, InputError):
                raise
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
