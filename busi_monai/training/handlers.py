"""The handlers that ``train.yaml`` names: they seed, average, count, step, show and keep epochs."""

from __future__ import annotations

import logging
import math
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler, LrScheduleHandler, MetricsSaver, ValidationHandler
from torch import Tensor
from tqdm import tqdm

from busi_monai.files import write_text
from busi_monai.training.checkpoints import ModelEma, RunCheckpoint
from busi_monai.training.distributed import gathered, is_first_process, process_rank
from busi_monai.training.losses import MultiTaskLoss
from busi_monai.training.sampling import epoch_seed
from busi_monai.training.schedules import PER_ITERATION

__all__ = [
    "HISTORY_COLUMNS",
    "EpochSeed",
    "History",
    "ImageTriplets",
    "TerminalProgress",
    "TrainingScores",
    "UpdateEma",
    "batch_dice",
    "handlers_of_rank",
    "iteration_loss",
    "schedule_handler",
    "selection_score",
]

HISTORY_COLUMNS = (
    "epoch", "lr", "train_loss", "train_loss_seg", "train_loss_cls", "train_lesion_dice",
    "train_accuracy", "val_loss", "val_lesion_dice", "val_all_dice", "val_accuracy",
    "val_auc_malignant", "seconds",
)  # fmt: skip


def selection_score(engine: Engine) -> float:
    """Return the validation figure by which the best epoch is chosen: higher is better."""
    return float(engine.state.metrics[engine.state.key_metric_name])


def iteration_loss(output: Mapping[str, Any]) -> float:
    """Return the loss of a trainer's iteration, for handlers that log it."""
    return float(output["loss"].detach())


class EpochSeed:
    """Handler that seeds sampling, augmentation and dropout at the start of every epoch.

    Each process of a training on several GPUs draws its own augmentation and dropout.

    Args:
        seed: the run's seed; the process of rank r draws epoch e from (seed, e, r).
        transform: the training transform (a ``Compose``), whose random parts are seeded too.
    """

    def __init__(self, seed: int, transform: Any = None) -> None:
        self.seed = seed
        self.transform = transform

    def attach(self, engine: Engine) -> None:
        """Seed before the epoch's first batch is drawn."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed every generator in use from (seed, epoch, rank)."""
        seed = epoch_seed(self.seed, engine.state.epoch, process_rank())
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - MONAI's transforms may draw from it
        torch.manual_seed(seed)
        if self.transform is not None:
            self.transform.set_random_state(seed=seed)


class UpdateEma:
    """Handler that updates a ``ModelEma`` after every ``every`` iterations of the trainer."""

    def __init__(self, average: ModelEma) -> None:
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Update while the trainer runs."""
        every = Events.ITERATION_COMPLETED(every=self.average.every)
        engine.add_event_handler(every, self.average.update)


class TrainingScores:
    """Handler: mean loss and its parts, lesion Dice and accuracy over an epoch's batches.

    The figures come from the augmented images at network size, while the weights still move: a
    cheap look at over-fitting, not a measurement. Of mixed images (``mixing``), the class with
    the largest share counts, and as lesion what is one by half or more. Of several processes, the
    batches of all count. They are left in
    ``engine.state.metrics`` as ``train_loss``, ``train_loss_seg``, ``train_loss_cls``,
    ``train_lesion_dice`` and ``train_accuracy``.

    Args:
        loss: the trainer's loss, for its ``parts``.
    """

    def __init__(self, loss: MultiTaskLoss) -> None:
        self.loss = loss
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def attach(self, engine: Engine) -> None:
        """Collect over the trainer's iterations."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._sums = {}

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
        total, images = self._sums.get(name, (torch.zeros_like(value), torch.zeros_like(count)))
        self._sums[name] = (total + value, images + count)

    def _finish(self, engine: Engine) -> None:
        own = {name: (float(total), float(count)) for name, (total, count) in self._sums.items()}
        parts = gathered(own)
        for name in own:
            total, count = (math.fsum(part[name][at] for part in parts) for at in (0, 1))
            engine.state.metrics[name] = total / count if count else float("nan")


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


class History:
    """Handler that adds a row to ``history.csv`` at the end of every epoch.

    Register it behind the validation handler. Each write replaces the file atomically, so that a
    killed run leaves whole rows only; a resumed one keeps the rows of the epochs before it.

    Args:
        path: the CSV file.
        evaluator: the validating engine, whose last metrics go into the row.
    """

    def __init__(self, path: str | Path, evaluator: Engine | None = None) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self._rows: list[str] | None = None
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Write rows while the trainer runs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        if self._rows is None:
            rows = self.path.read_text("utf-8").splitlines()[1:] if self.path.is_file() else []
            self._rows = [row for row in rows if int(row.split(",")[0]) < engine.state.epoch]
        self._started = time.perf_counter()

    def _finish(self, engine: Engine) -> None:
        values: dict[str, float] = dict(engine.state.metrics)
        # the validating engine carries the epoch of its last run: an older one is not this row's
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            values |= self.evaluator.state.metrics
        values["lr"] = engine.optimizer.param_groups[0]["lr"]
        values["seconds"] = time.perf_counter() - self._started
        known = (values.get(name, math.nan) for name in HISTORY_COLUMNS[1:])
        cells = [f"{value:.6g}" if math.isfinite(value) else "" for value in known]
        self._rows = [*(self._rows or []), ",".join([str(engine.state.epoch), *cells])]
        write_text(self.path, "\n".join([",".join(HISTORY_COLUMNS), *self._rows]) + "\n")


def schedule_handler(name: str, lr_scheduler: Any, evaluator: Engine) -> LrScheduleHandler:
    """Return the handler that steps a schedule after every iteration or epoch, as its kind wants.

    Register it behind the validation handler: ``plateau`` steps on the validation score, after
    those epochs that were validated.
    """
    if name == "plateau":
        return _PlateauHandler(lr_scheduler, evaluator)
    return LrScheduleHandler(lr_scheduler, print_lr=False, epoch_level=name not in PER_ITERATION)


class _PlateauHandler(LrScheduleHandler):
    def __init__(self, lr_scheduler: Any, evaluator: Engine) -> None:
        super().__init__(lr_scheduler, print_lr=False)
        self.evaluator = evaluator

    def __call__(self, engine: Engine) -> None:
        if self.evaluator.state.epoch != engine.state.epoch:
            return
        self.lr_scheduler.step(selection_score(self.evaluator))


class ImageTriplets:
    """Handler that shows (image, true mask, predicted mask) of some validation images.

    In TensorBoard, at every ``interval``-th validation, the first of a session included.

    Args:
        writer: a ``SummaryWriter``.
        count: how many images.
        interval: validations between those that are shown.
    """

    def __init__(self, writer: Any, count: int = 4, interval: int = 5) -> None:
        self.writer = writer
        self.count = count
        self.interval = interval
        self._validations = 0
        self._shown = 0

    def attach(self, engine: Engine) -> None:
        """Write while the evaluator runs."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._validations += 1
        self._shown = 0

    def __call__(self, engine: Engine) -> None:
        """Add the images of a batch until enough are shown."""
        if (self._validations - 1) % self.interval:
            return
        for item, predicted in zip(engine.state.batch, engine.state.output, strict=True):
            if self._shown >= self.count or "seg" not in predicted or "label" not in item:
                return
            panels = [_unit(item["image"][0]), _unit(item["label"][0]), predicted["seg"][0] > 0]
            image = np.concatenate([np.asarray(panel, dtype=np.float32) for panel in panels], 1)
            name = f"validation/{self._shown}"
            self.writer.add_image(name, image[None], global_step=engine.state.epoch)
            self._shown += 1


def _unit(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-6)


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
            engine.add_event_handler(Events.COMPLETED, lambda: self._bar and self._bar.close())

    def _start(self, engine: Engine) -> None:
        state = engine.state
        self._bar = self._bar or tqdm(
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


def handlers_of_rank(handlers: Sequence[Any]) -> list[Any]:
    """Return the handlers of this process: all in the first, those that steer in the others.

    ``MetricsSaver`` gathers from all processes, and ``RunCheckpoint`` loads in all; both write in
    the first one only.
    """
    if is_first_process():
        return list(handlers)
    steering = (
        EarlyStopHandler, EpochSeed, LrScheduleHandler, MetricsSaver, RunCheckpoint, TrainingScores,
        UpdateEma, ValidationHandler,
    )  # fmt: skip
    return [handler for handler in handlers if isinstance(handler, steering)]
