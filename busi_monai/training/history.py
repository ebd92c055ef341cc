"""``history.csv``, one row an epoch, and the images of the training's course."""

from __future__ import annotations

import math
import time
from pathlib import Path

from ignite.engine import Engine, Events

from busi_monai.files import atomic_file, write_text

__all__ = ["HISTORY_COLUMNS", "History", "draw_history"]

HISTORY_COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_loss_seg",
    "train_loss_cls",
    "train_lesion_dice",
    "train_accuracy",
    "val_loss",
    "val_lesion_dice",
    "val_all_dice",
    "val_accuracy",
    "val_auc_malignant",
    "seconds",
)


class History:
    """Handler that adds a row to ``history.csv`` at the end of every epoch.

    Register it behind the validation handler. Each write replaces the file atomically, so that a
    killed run leaves whole rows only; ``resume`` continues the file.

    Args:
        path: the CSV file.
        evaluator: the validating engine, whose last metrics go into the row.
        resume: keep the rows that are there up to the epoch that training continues from.
    """

    def __init__(self, path: str | Path, evaluator: Engine | None, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.resume = resume
        self._rows: list[str] | None = None
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Write rows while the trainer runs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        if self._rows is None:
            rows = self.path.read_text("utf-8").splitlines()[1:] if self._continues() else []
            self._rows = [row for row in rows if int(row.split(",")[0]) < engine.state.epoch]
        self._started = time.perf_counter()

    def _continues(self) -> bool:
        return self.resume and self.path.is_file()

    def _finish(self, engine: Engine) -> None:
        values: dict[str, float] = dict(engine.state.metrics)
        # the validating engine carries the epoch of its last run: an older one is not this row's
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            values |= self.evaluator.state.metrics
        values["lr"] = engine.optimizer.param_groups[0]["lr"]
        values["seconds"] = time.perf_counter() - self._started
        cells = [str(engine.state.epoch)]
        cells += [_cell(values.get(name)) for name in HISTORY_COLUMNS[1:]]
        self._rows = [*(self._rows or []), ",".join(cells)]
        write_text(self.path, "\n".join([",".join(HISTORY_COLUMNS), *self._rows]) + "\n")


def draw_history(history_csv: str | Path, image: str | Path) -> None:
    """Draw losses, Dice, class figures and learning rate over the epochs into a PNG.

    What the network has no head for gets no panel.

    Args:
        history_csv: a ``history.csv``.
        image: path of the PNG to write.
    """
    import pandas as pd
    from matplotlib.figure import Figure

    table = pd.read_csv(history_csv)
    panels = {
        "Loss": ("train_loss", "val_loss", "train_loss_seg", "train_loss_cls"),
        "Dice": ("train_lesion_dice", "val_lesion_dice", "val_all_dice"),
        "Class": ("train_accuracy", "val_accuracy", "val_auc_malignant"),
        "Learning rate": ("lr",),
    }
    known = {
        title: [name for name in names if table[name].notna().any()]
        for title, names in panels.items()
    }
    shown = {title: names for title, names in known.items() if names}
    figure = Figure(figsize=(11, 7), layout="constrained")
    for place, (title, names) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        for name in names:
            values = table[["epoch", name]].dropna()
            axes.plot(values["epoch"], values[name], marker=".", label=name)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with atomic_file(image) as partial:
        figure.savefig(partial, dpi=110)


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"
