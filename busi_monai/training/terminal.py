"""Progress of a training on a terminal, and nowhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine
from ignite.handlers import ProgressBar

from busi_monai.training.scores import iteration_loss

__all__ = ["TerminalProgress"]


class TerminalProgress:
    """Handler that shows a progress bar for each epoch, where stderr is a terminal.

    Where the log is quiet (warnings only), the bar is not shown either.
    """

    def attach(self, engine: Engine) -> None:
        """Attach the bar, with the running loss beside it."""
        if logging.getLogger().isEnabledFor(logging.INFO) and sys.stderr.isatty():
            ProgressBar().attach(engine, output_transform=_running_loss)


def _running_loss(output: Mapping[str, Any]) -> dict[str, float]:
    return {"loss": iteration_loss(output)}
