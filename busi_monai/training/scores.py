"""What the history shows of an epoch: running figures of training, and the validation scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import IterationEvents
from torch import Tensor

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.metrics import classification_scores, dice
from busi_monai.training.losses import MultiTaskLoss

__all__ = [
    "SELECTIONS",
    "TrainingScores",
    "ValidationScores",
    "batch_dice",
    "iteration_loss",
    "selection_score",
]

SELECTIONS = ("score", "loss", "lesion_dice", "all_dice", "accuracy", "auc_malignant")


def batch_dice(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed Dice over a batch's lesion-bearing images, and their number.

    Args:
        logits: (N, 1, H, W) mask logits.
        mask: (N, 1, H, W) of 0 to 1, lesion from a half on; images of -1 (unknown mask) count as
            without lesion.

    Examples:
        >>> mask = torch.zeros(2, 1, 4, 4); mask[0, 0, :2] = 1
        >>> batch_dice(mask * 20 - 10, mask)
        (tensor(1.), tensor(1))
    """
    predicted, true = logits.flatten(1) > 0, mask.flatten(1) >= 0.5
    sizes = true.sum(1)
    scores = 2 * (predicted & true).sum(1) / (predicted.sum(1) + sizes).clamp(min=1)
    lesions = sizes > 0
    return scores[lesions].sum(), lesions.sum()


def selection_score(engine: Engine) -> float:
    """Return the validation figure by which the best epoch is chosen: higher is better."""
    return float(engine.state.metrics[engine.state.key_metric_name])


def iteration_loss(output: Mapping[str, Any]) -> float:
    """Return the loss of a trainer's iteration, for handlers that log it."""
    return float(output["loss"].detach())


class TrainingScores:
    """Handler: mean loss and its parts, lesion Dice and accuracy over an epoch's own batches.

    The figures come from the augmented images at network size, while the weights still move: a
    cheap look at over-fitting, not a measurement. Of mixed images (``mixing``), the class with
    the largest share counts, and as lesion what is one by half or more. They are left in
    ``engine.state.metrics`` as ``train_loss``, ``train_loss_seg``, ``train_loss_cls``,
    ``train_lesion_dice`` and ``train_accuracy``.

    Args:
        loss: the trainer's loss, for its ``parts``.
    """

    def __init__(self, loss: MultiTaskLoss) -> None:
        self.loss = loss
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Collect over the trainer's iterations."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._sums, self._counts = {}, {}

    @torch.no_grad()
    def _collect(self, engine: Engine) -> None:
        output = engine.state.output
        targets, predicted = output["label"], output["pred"]
        size = torch.tensor(len(output["image"]))
        self._add("train_loss", output["loss"].detach() * size, size)
        for name, value in self.loss.parts.items():
            self._add(f"train_loss_{name}", value * size, size)
        if "seg" in predicted and "seg" in targets:
            self._add("train_lesion_dice", *batch_dice(predicted["seg"], targets["seg"]))
        if "cls" in predicted and "cls" in targets:
            true = targets["cls"]
            if true.ndim == 2:  # probabilities, all −1 where they are missing
                true = torch.where(true.amin(1) >= 0, true.argmax(1), -1)
            known = true >= 0
            right = (predicted["cls"].argmax(1) == true) & known
            self._add("train_accuracy", right.sum(), known.sum())

    def _add(self, name: str, value: Tensor, count: Tensor) -> None:
        self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value
        self._counts[name] = self._counts.get(name, torch.zeros((), device=count.device)) + count

    def _finish(self, engine: Engine) -> None:
        for name, total in self._sums.items():
            count = float(self._counts[name])
            engine.state.metrics[name] = float(total) / count if count else float("nan")


class ValidationScores(Metric):
    """Validation figures per image at native size, and the one that selects the best epoch.

    Attach it as the evaluator's key metric. It leaves ``val_loss``, ``val_lesion_dice``,
    ``val_all_dice``, ``val_accuracy`` and ``val_auc_malignant`` in ``engine.state.metrics``.

    Args:
        loss: the loss, for ``val_loss`` at network size; ``None`` leaves it out.
        classes: the class names, in order; empty without a class head.
        select_by: ``score`` is the mean of lesion Dice and mean one-vs-rest AUC (of what the
            network has heads for); ``loss`` is negated; or one of the figures. A figure that is
            undefined in an epoch counts as minus infinity.

    Raises:
        ValueError: if ``select_by`` is none of ``SELECTIONS``.
        InputError: (at the end of a validation) if the network has not got the head for it.
    """

    def __init__(
        self,
        loss: MultiTaskLoss | None = None,
        classes: Sequence[str] = CLASSES,
        select_by: str = "score",
    ) -> None:
        if select_by not in SELECTIONS:
            raise ValueError(f"select_by must be one of {', '.join(SELECTIONS)}, got {select_by!r}")
        self.loss = loss
        self.classes = tuple(classes)
        self.select_by = select_by
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
        figures: dict[str, float] = {}
        if self._losses:
            count = sum(size for _, size in self._losses)
            figures["val_loss"] = sum(value * size for value, size in self._losses) / count
        if self._dices:
            figures["val_all_dice"] = float(np.mean(self._dices))
        if self._lesion_dices:
            figures["val_lesion_dice"] = float(np.mean(self._lesion_dices))
        if self._labels:
            probabilities = np.stack(self._probabilities)
            scores = classification_scores(
                np.asarray(self._labels), probabilities, probabilities.argmax(1), self.classes
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
