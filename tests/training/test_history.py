from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from ignite.engine import Engine, Events

from busi_monai.io.images import read_image
from busi_monai.training import HISTORY_COLUMNS, History, draw_history


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


def test_what_is_unknown_or_undefined_is_an_empty_cell(tmp_path: Path) -> None:
    train(tmp_path / "history.csv", 1)
    row = (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()[1].split(",")
    cells = dict(zip(HISTORY_COLUMNS, row, strict=True))
    assert cells["train_accuracy"] == "" and cells["val_loss"] == ""


def test_an_epoch_without_validation_has_no_stale_figures(tmp_path: Path) -> None:
    train(tmp_path / "history.csv", 4, every=2)
    table = pd.read_csv(tmp_path / "history.csv")
    assert table["val_lesion_dice"].isna().tolist() == [True, False, True, False]


def test_resuming_keeps_the_rows_up_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    train(path, 3)
    before = path.read_text(encoding="utf-8").splitlines()
    train(path, 4, start=2)
    after = path.read_text(encoding="utf-8").splitlines()
    assert after[:3] == before[:3]
    assert [row.split(",")[0] for row in after[1:]] == ["1", "2", "3", "4"]


def test_a_new_training_begins_a_new_table(tmp_path: Path) -> None:
    train(tmp_path / "history.csv", 3)
    train(tmp_path / "history.csv", 1)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1


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
    corners = [
        pixels[height * 6 // 10 :, width * 6 // 10 :] for pixels in drawn
    ]  # the fourth panel
    assert corners[0].std() > 0.02 and corners[1].std() == 0
