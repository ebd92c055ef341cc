"""What the handlers of a training do."""

from __future__ import annotations

import io
import logging
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose, RandAdjustContrastd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from busi_monai.io.images import read_image
from busi_monai.training import (
    HISTORY_COLUMNS,
    EpochSeed,
    History,
    ImageTriplets,
    ModelEma,
    TerminalProgress,
    UpdateEma,
    draw_history,
)


def moving_network(average: ModelEma, steps: int) -> None:
    def step(engine: Engine, batch: int) -> None:
        with torch.no_grad():
            average.trained.weight.fill_(float(engine.state.iteration))

    trainer = Engine(step)
    UpdateEma(average).attach(trainer)
    trainer.run(range(steps), max_epochs=1)


def test_zero_decay_is_the_trained_network_itself() -> None:
    network = nn.Linear(1, 1)
    average = ModelEma(network, decay=0.0)
    assert average.network is network
    assert average.state_dict() == {}


def test_average_lags_behind_the_trained_weights() -> None:
    average = ModelEma(nn.Linear(1, 1), decay=0.9, every=1)
    moving_network(average, 100)
    # of a line 1, 2, …, n the average with decay d is n - d / (1 - d) in the long run
    assert average.network.weight.item() == pytest.approx(100 - 9, abs=0.2)


def test_updating_less_often_spans_the_same_time() -> None:
    often, seldom = (ModelEma(nn.Linear(1, 1), decay=0.98, every=n) for n in (1, 4))
    moving_network(often, 400)
    moving_network(seldom, 400)
    assert seldom.network.weight.item() == pytest.approx(often.network.weight.item(), abs=4)


def test_random_start_is_soon_forgotten() -> None:
    average = ModelEma(nn.Linear(1, 1), decay=0.999, every=1)
    with torch.no_grad():
        average.network.weight.fill_(1e6)
    moving_network(average, 200)
    assert average.network.weight.item() < 200


def test_state_continues() -> None:
    first = ModelEma(nn.Linear(1, 1), decay=0.9, every=1)
    moving_network(first, 10)
    second = ModelEma(nn.Linear(1, 1), decay=0.9, every=1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.network.weight, first.network.weight)


def test_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="decay"):
        ModelEma(nn.Linear(1, 1), decay=1.0)


def draws(seed: int, *, first: int = 1, epochs: int = 3) -> dict[int, list[float]]:
    """What an epoch draws from every generator in use."""
    transform = Compose([RandAdjustContrastd("image", prob=1.0, gamma=(0.5, 2.0))])
    drawn: dict[int, list[float]] = {}

    def step(engine: Engine, batch: int) -> None:
        contrast = transform({"image": torch.full((1, 2, 2), 0.5)})["image"]
        numpys = np.random.rand()  # noqa: NPY002 - what MONAI's transforms may draw from
        numbers = [random.random(), numpys, torch.rand(1).item(), float(contrast.mean())]
        drawn.setdefault(engine.state.epoch, []).extend(numbers)

    trainer = Engine(step)

    @trainer.on(Events.STARTED)
    def start(engine: Engine) -> None:
        engine.state.epoch = first - 1

    EpochSeed(seed, transform).attach(trainer)
    trainer.run([0, 1], max_epochs=epochs)
    return drawn


def test_draws_depend_on_the_seed_and_the_epoch_alone() -> None:
    drawn = draws(0)
    assert drawn[1] != drawn[2] != drawn[3] and drawn[1] != draws(1)[1]
    torch.rand(7)
    assert draws(0, first=3)[3] == drawn[3]


def test_a_kept_run_can_be_drawn_again() -> None:
    trainer = Engine(lambda engine, batch: None)
    EpochSeed(0).attach(trainer)
    seeds: list[int] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: seeds.append(torch.initial_seed())
    )
    trainer.run([0], max_epochs=3)
    assert seeds == [3964924996, 3141116543, 2613022947]


def train(path: Path, epochs: int, *, start: int = 0, every: int = 1) -> None:
    trainer = Engine(lambda engine, batch: None)
    trainer.optimizer = SimpleNamespace(param_groups=[{"lr": 0.01}])
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))

    @trainer.on(Events.STARTED)
    def resume_from(engine: Engine) -> None:
        engine.state.epoch = engine.state.iteration = start

    @trainer.on(Events.EPOCH_COMPLETED)
    def measure(engine: Engine) -> None:
        epoch = engine.state.epoch
        engine.state.metrics.update(train_loss=1 / epoch, train_accuracy=float("nan"))
        if epoch % every == 0:
            evaluator.state.epoch = epoch
            evaluator.state.metrics = {"val_lesion_dice": epoch / 10}

    History(path, evaluator).attach(trainer)
    trainer.run([0], max_epochs=epochs)


def test_one_row_an_epoch(tmp_path: Path) -> None:
    train(tmp_path / "history.csv", 3)
    table = pd.read_csv(tmp_path / "history.csv")
    assert tuple(table.columns) == HISTORY_COLUMNS
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["val_lesion_dice"].tolist() == [0.1, 0.2, 0.3]
    assert table["lr"].tolist() == [0.01] * 3
    assert (table["seconds"] >= 0).all()
    # what is unknown or undefined is an empty cell
    row = (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()[1].split(",")
    cells = dict(zip(HISTORY_COLUMNS, row, strict=True))
    assert cells["train_accuracy"] == "" and cells["val_loss"] == ""


def test_an_epoch_without_validation_has_no_stale_figures(tmp_path: Path) -> None:
    train(tmp_path / "history.csv", 4, every=2)
    table = pd.read_csv(tmp_path / "history.csv")
    assert table["val_lesion_dice"].isna().tolist() == [True, False, True, False]


def test_resuming_keeps_the_rows_up_to_the_checkpoint_and_a_new_training_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.csv"
    train(path, 3)
    before = path.read_text(encoding="utf-8").splitlines()
    train(path, 4, start=2)
    after = path.read_text(encoding="utf-8").splitlines()
    assert after[:3] == before[:3]
    assert [row.split(",")[0] for row in after[1:]] == ["1", "2", "3", "4"]
    train(path, 1)
    assert len(pd.read_csv(path)) == 1


@pytest.mark.parametrize("every", [1, 9])
def test_the_image_can_be_opened(tmp_path: Path, every: int) -> None:
    train(tmp_path / "history.csv", 3, every=every)
    draw_history(tmp_path / "history.csv", tmp_path / "history.png")
    pixels = read_image(tmp_path / "history.png").pixels
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.05


def test_what_the_network_has_no_head_for_gets_no_panel(tmp_path: Path) -> None:
    train(tmp_path / "masks.csv", 3)
    draw_history(tmp_path / "masks.csv", tmp_path / "masks.png")
    table = pd.read_csv(tmp_path / "masks.csv").assign(val_accuracy=[0.2, 0.5, 0.4])
    table.to_csv(tmp_path / "both.csv", index=False)
    draw_history(tmp_path / "both.csv", tmp_path / "both.png")
    drawn = [read_image(tmp_path / f"{name}.png").pixels for name in ("both", "masks")]
    height, width = drawn[0].shape[:2]
    fourth = np.s_[height * 6 // 10 :, width * 6 // 10 :]
    corners = [pixels[fourth] for pixels in drawn]
    assert corners[0].std() > 0.02 and corners[1].std() == 0


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "level", "shown"),
    [
        (Terminal, logging.INFO, True),
        (Terminal, logging.WARNING, False),
        (io.StringIO, logging.INFO, False),
    ],
)
def test_a_bar_for_the_whole_training_on_a_terminal_that_is_not_quiet(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stream: type[io.StringIO],
    level: int,
    shown: bool,
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    caplog.set_level(level)
    engine = Engine(lambda _engine, batch: {"loss": batch})
    TerminalProgress().attach(engine)
    engine.run(torch.tensor([0.5, 0.25]), max_epochs=3)
    written = sys.stderr.getvalue()
    if shown:
        assert "epoch 3/3 100%" in written
        assert "0:00 left, loss=0.25" in written.replace("00:00", "0:00")
    else:
        assert written == ""


def engine_with_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Engine:
    monkeypatch.setattr(sys, "stderr", Terminal())
    caplog.set_level(logging.INFO)
    engine = Engine(lambda _engine, batch: {"loss": batch})
    TerminalProgress().attach(engine)
    return engine


def test_the_bar_of_a_resumed_training_begins_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_with_bar(monkeypatch, caplog)
    state = {"iteration": 4, "epoch_length": 2, "max_epochs": 3}
    engine.load_state_dict(state)
    engine.run(torch.tensor([0.5, 0.25]))
    assert " 67%|" in sys.stderr.getvalue()
    assert "epoch 3/3 100%" in sys.stderr.getvalue()


def test_a_training_with_nothing_left_shows_no_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine_with_bar(monkeypatch, caplog).fire_event(Events.COMPLETED)
    assert sys.stderr.getvalue() == ""
