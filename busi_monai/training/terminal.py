"""Progress of a training on a terminal, and nowhere else."""

from __future__ import annotations

import logging
import sys
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from busi_monai.training.scores import iteration_loss

__all__ = ["TerminalProgress"]


class TerminalProgress:
    """Handler that shows one bar for the whole training, where stderr is a terminal.

    It names the epoch, the running loss, and the time left if every epoch is trained; validations
    count in. Where the log is quiet (warnings only), the bar is not shown either.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Show the bar from the first epoch that is trained to the end."""
        if logging.getLogger().isEnabledFor(logging.INFO) and sys.stderr.isatty():
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
            engine.add_event_handler(Events.COMPLETED, self._close)

    def _start(self, engine: Engine) -> None:
        state = engine.state
        if self._bar is None:
            self._bar = tqdm(
                total=state.max_epochs * state.epoch_length,
                initial=state.iteration,  # of a training that is resumed
                smoothing=0,  # the mean since the start, validations included
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
            )

    def _advance(self, engine: Engine) -> None:
        state = engine.state
        self._bar.set_description_str(f"epoch {state.epoch}/{state.max_epochs}", refresh=False)
        self._bar.set_postfix({"loss": iteration_loss(state.output)}, refresh=False)
        self._bar.update()

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
