"""The figures of a validation, the one that selects the best epoch, and the course of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import IterationEvents

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.files import atomic_file
from busi_monai.metrics import classification_scores, dice
from busi_monai.training.distributed import gathered, share_buffers
from busi_monai.training.losses import MultiTaskLoss

__all__ = ["SELECTIONS", "ValidationScores", "draw_history"]

SELECTIONS = ("score", "loss", "lesion_dice", "all_dice", "accuracy", "auc_malignant")


class ValidationScores(Metric):
    """Validation figures per image at native size, and the one that selects the best epoch.

    Attach it as the evaluator's key metric. It leaves ``val_loss``, ``val_lesion_dice``,
    ``val_all_dice``, ``val_accuracy`` and ``val_auc_malignant`` in ``engine.state.metrics``. Of
    several processes, all validate the first one's network and have the same figures.

    Args:
        loss: the loss, for ``val_loss`` at network size; ``None`` leaves it out.
        classes: the class names, in order; empty without a class head.
        select_by: ``score`` is the mean of lesion Dice and mean one-vs-rest AUC (of what the
            network has heads for); ``loss`` is negated; or one of the figures. A figure that is
            undefined in an epoch counts as minus infinity.
        shared: whether each process validates its share (``validation_share``), so that the
            images of all count; else those of the first one do.

    Raises:
        ValueError: if ``select_by`` is none of ``SELECTIONS``.
        InputError: (at the end of a validation) if the network has not got the head for it.
    """

    def __init__(
        self,
        loss: MultiTaskLoss | None = None,
        classes: Sequence[str] = CLASSES,
        select_by: str = "score",
        *,
        shared: bool = False,
    ) -> None:
        if select_by not in SELECTIONS:
            raise ValueError(f"select_by must be one of {', '.join(SELECTIONS)}, got {select_by!r}")
        self.loss = loss
        self.classes = tuple(classes)
        self.select_by = select_by
        self.shared = shared
        super().__init__()

    def reset(self) -> None:
        """Forget the collected images."""
        self._losses: list[tuple[float, int]] = []
        self._dices: list[float] = []
        self._lesion_dices: list[float] = []
        self._labels: list[int] = []
        self._probabilities: list[np.ndarray] = []

    def attach(self, engine: Engine, name: str, *args: Any) -> None:
        """Collect over the evaluator's iterations; the selecting figure is called ``name``."""
        super().attach(engine, name, *args)
        engine.add_event_handler(Events.STARTED, lambda engine: share_buffers(engine.network))
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._collect_loss)

    @torch.no_grad()
    def _collect_loss(self, engine: Engine) -> None:
        if self.loss is not None:
            output = engine.state.output
            value = float(self.loss(output["pred"], output["label"]))
            self._losses.append((value, len(output["image"])))

    def iteration_completed(self, engine: Engine) -> None:
        """Collect the postprocessed items of a batch."""
        for item, predicted in zip(engine.state.batch, engine.state.output, strict=True):
            self.update((item, predicted))

    def update(self, output: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Collect one image: its item with the truth, and its postprocessed prediction."""
        item, predicted = output
        # the engine leaves the network's whole output under "pred" where there is no mask
        if "pred_seg" in predicted and item.get("native_label") is not None:
            true = np.asarray(item["native_label"])[0] > 0
            score = dice(np.asarray(predicted["pred"]) > 0, true)
            self._dices.append(score)
            if true.any():
                self._lesion_dices.append(score)
        label = int(item.get("class_label", -1))
        if "pred_cls" in predicted and label >= 0:
            self._labels.append(label)
            self._probabilities.append(np.asarray(predicted["pred_cls"], dtype=np.float64))

    def compute(self) -> dict[str, float]:
        """Return the figures by name; those without any image are left out."""
        found = (
            self._losses, self._dices, self._lesion_dices, self._labels, self._probabilities,
        )  # fmt: skip
        parts = gathered(found)
        parts = parts if self.shared else parts[:1]
        losses, dices, lesion_dices, labels, stacked = (
            [*chain.from_iterable(lists)] for lists in zip(*parts, strict=True)
        )
        figures: dict[str, float] = {}
        # exact sums: they are the same in whatever order the processes have the images
        if losses:
            total = math.fsum(value * size for value, size in losses)
            figures["val_loss"] = total / sum(size for _, size in losses)
        if dices:
            figures["val_all_dice"] = math.fsum(dices) / len(dices)
        if lesion_dices:
            figures["val_lesion_dice"] = math.fsum(lesion_dices) / len(lesion_dices)
        if labels:
            probabilities = np.stack(stacked)
            scores = classification_scores(
                np.asarray(labels), probabilities, probabilities.argmax(1), self.classes
            )
            for name in ("accuracy", "macro_f1", "auc_malignant", "auc_macro"):
                figures[f"val_{name}"] = scores[name]
        return figures

    def completed(self, engine: Engine, name: str) -> None:
        """Leave the figures and the selecting one in the evaluator's state."""
        figures = self.compute()
        engine.state.metrics.update(figures)
        engine.state.metrics[name] = self._selecting(figures)

    def _selecting(self, figures: Mapping[str, float]) -> float:
        if self.select_by == "score":
            names = ("val_lesion_dice", "val_auc_macro")
            known = [figures[name] for name in names if np.isfinite(figures.get(name, np.nan))]
            return float(np.mean(known)) if known else -figures.get("val_loss", float("inf"))
        value = figures.get(f"val_{self.select_by}")
        if value is None:
            raise InputError(
                f"select_by: {self.select_by!r} cannot be computed, the validation gives only "
                f"{', '.join(name.removeprefix('val_') for name in figures)}"
            )
        value = -value if self.select_by == "loss" else value
        # a NaN would compare as neither better nor worse, and stay the best for ever
        return value if np.isfinite(value) else -float("inf")


def draw_history(history_csv: str | Path, image: str | Path) -> None:
    """Draw losses, Dice, class figures and learning rate over the epochs into a PNG.

    What the network has no head for gets no panel.
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
