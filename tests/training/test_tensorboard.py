from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from busi_monai.training import ImageTriplets


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def count_from(engine: Engine, epoch: int) -> None:
    engine.state.epoch = epoch


def show(
    folder: Path, epochs: int, *, seg: bool = True, count: int = 3, val_interval: int = 1
) -> EventAccumulator:
    def step(engine: Engine, batch: int) -> list[dict]:
        item = {"image": torch.rand(1, 8, 6), "label": torch.ones(1, 8, 6)}
        engine.state.batch = [item, item]
        return [{"seg": torch.ones(1, 8, 6)} if seg else {"cls": torch.ones(3)}] * 2

    with SummaryWriter(str(folder)) as writer:
        evaluator = Engine(step)
        ImageTriplets(writer, count=count, interval=2).attach(evaluator)
        for epoch in range(val_interval, epochs + 1, val_interval):
            # MONAI's evaluators carry the trainer's epoch
            with evaluator.add_event_handler(Events.STARTED, count_from, epoch - 1):
                evaluator.run([0, 1], max_epochs=epoch)
    return events(folder)


def test_images_are_shown_side_by_side(tmp_path: Path) -> None:
    found = show(tmp_path, 3)
    assert found.Tags()["images"] == ["validation/0", "validation/1", "validation/2"]
    images = found.Images("validation/0")
    assert [image.step for image in images] == [1, 3]
    assert (images[0].height, images[0].width) == (8, 18)


def test_validations_are_counted_whatever_epochs_lie_between_them(tmp_path: Path) -> None:
    images = show(tmp_path, 6, val_interval=2).Images("validation/0")
    assert [image.step for image in images] == [2, 6]


def test_a_network_without_masks_shows_nothing(tmp_path: Path) -> None:
    assert show(tmp_path, 1, seg=False).Tags()["images"] == []


def test_a_run_leaves_scalars_and_images(tiny_run: Path) -> None:
    tags = events(tiny_run / "tensorboard").Tags()
    assert {"train_loss", "val_lesion_dice", "val_score"} <= set(tags["scalars"])
    assert "validation/0" in tags["images"]
