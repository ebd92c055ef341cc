from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import EarlyStopHandler, ValidationHandler
from torch import nn

from busi_monai.errors import BusiMonaiError, InputError, WeightsError
from busi_monai.training import ModelEma, RunCheckpoint, selection_score

SCORES = [0.3, 0.5, 0.4, 0.2, 0.6, 0.1]


class Training:
    """A linear network on random numbers, whose validation scores are given."""

    def __init__(
        self,
        folder: Path,
        epochs: int = 4,
        *,
        resume: bool = False,
        width: int = 2,
        patience: int = 9,
        scores: list[float] | None = None,
        interval: int = 1,
        cosine: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(width, 1)
        self.average = ModelEma(self.network, decay=0.5, every=1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)
        schedules = torch.optim.lr_scheduler
        self.schedule = (
            schedules.CosineAnnealingLR(self.optimizer, T_max=epochs)
            if cosine
            else schedules.ExponentialLR(self.optimizer, 0.9)
        )
        batches = [{"image": torch.randn(4, width), "label": torch.ones(4, 1)} for _ in range(3)]
        self.evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=batches[:1],
            network=self.average.network,
            decollate=False,
        )
        self.evaluator.state.key_metric_name = "val_score"
        given = SCORES if scores is None else scores

        @self.evaluator.on(Events.EPOCH_COMPLETED)
        def compare(engine: Engine) -> None:
            score = given[engine.state.epoch - 1]
            engine.state.metrics["val_score"] = score
            if engine.state.best_metric_epoch == -1 or score > engine.state.best_metric:
                engine.state.best_metric, engine.state.best_metric_epoch = score, engine.state.epoch

        self.early_stop = EarlyStopHandler(patience, selection_score)
        self.early_stop.attach(self.evaluator)
        self.checkpoint = RunCheckpoint(
            folder,
            self.network,
            self.average,
            self.optimizer,
            self.schedule,
            self.evaluator,
            self.early_stop,
            resume=resume,
        )
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=batches,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            decollate=False,
            train_handlers=[ValidationHandler(interval, self.evaluator), self.checkpoint],
        )
        self.trainer.add_event_handler(Events.EPOCH_STARTED, self._begin)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.average.update)
        self.early_stop.set_trainer(self.trainer)
        self.saved_best: list[int] = []

    def _begin(self, engine: Engine) -> None:
        self.epochs_run = [*getattr(self, "epochs_run", []), engine.state.epoch]

    def run(self, *, until: int | None = None) -> Training:
        if until is not None:
            # a killed process: nothing runs after the checkpoint of that epoch
            self.trainer.add_event_handler(
                Events.EPOCH_COMPLETED(once=until), lambda engine: engine.terminate()
            )
        self.trainer.run()
        return self


def loaded(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_both_files_hold_plain_tensors(tmp_path: Path) -> None:
    training = Training(tmp_path).run()
    best, last = loaded(tmp_path / "model.pt"), loaded(tmp_path / "last.pt")
    assert set(best) == {"weight", "bias"}
    assert last["progress"]["epoch"] == 4
    assert torch.equal(last["network"]["weight"], training.network.weight)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "last.pt"}


def test_the_best_epochs_average_is_the_model(tmp_path: Path) -> None:
    until_best = Training(tmp_path / "two").run(until=2)
    Training(tmp_path / "four").run()
    best = loaded(tmp_path / "four" / "model.pt")
    assert torch.equal(best["weight"], until_best.average.network.weight)
    assert not torch.equal(best["weight"], until_best.network.weight)


def test_the_newest_weights_are_the_model_until_a_validation(tmp_path: Path) -> None:
    training = Training(tmp_path, epochs=2, interval=5).run()
    assert torch.equal(loaded(tmp_path / "model.pt")["weight"], training.average.network.weight)


def test_a_resumed_training_ends_like_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole", epochs=6).run()
    Training(tmp_path / "parts", epochs=6).run(until=3)
    rest = Training(tmp_path / "parts", epochs=6, resume=True).run()
    assert rest.epochs_run == [4, 5, 6]
    assert torch.equal(rest.network.weight, whole.network.weight)
    assert torch.equal(rest.average.network.weight, whole.average.network.weight)
    assert rest.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
    assert rest.evaluator.state.best_metric == 0.6
    assert torch.equal(
        loaded(tmp_path / "parts" / "model.pt")["weight"],
        loaded(tmp_path / "whole" / "model.pt")["weight"],
    )


def test_the_best_score_of_before_still_holds(tmp_path: Path) -> None:
    Training(tmp_path).run(until=2)
    best = loaded(tmp_path / "model.pt")["weight"]
    rest = Training(tmp_path, resume=True).run()
    assert (rest.evaluator.state.best_metric, rest.evaluator.state.best_metric_epoch) == (0.5, 2)
    assert torch.equal(loaded(tmp_path / "model.pt")["weight"], best)


def test_patience_goes_on_counting(tmp_path: Path) -> None:
    scores = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    Training(tmp_path, epochs=6, patience=3, scores=scores).run(until=3)
    rest = Training(tmp_path, epochs=6, patience=3, scores=scores, resume=True).run()
    assert rest.epochs_run == [4]


def test_a_run_that_had_stopped_early_stays_stopped(tmp_path: Path) -> None:
    scores = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    first = Training(tmp_path, epochs=6, patience=2, scores=scores).run()
    assert first.epochs_run == [1, 2, 3]
    again = Training(tmp_path, epochs=6, patience=2, scores=scores, resume=True).run()
    assert not hasattr(again, "epochs_run")


def test_without_a_checkpoint_training_starts_anew(tmp_path: Path) -> None:
    assert Training(tmp_path, epochs=2, resume=True).run().epochs_run == [1, 2]


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    Training(tmp_path, epochs=1).run()
    with pytest.raises(WeightsError, match="another architecture"):
        Training(tmp_path, epochs=1, width=3, resume=True).run()


def test_another_length_is_refused_where_the_schedule_depends_on_it(tmp_path: Path) -> None:
    Training(tmp_path / "cosine", epochs=1, cosine=True).run()
    with pytest.raises(InputError, match="1 epochs, now there are 3, and its learning-rate"):
        Training(tmp_path / "cosine", epochs=3, cosine=True, resume=True).run()
    Training(tmp_path / "exponential", epochs=1).run()
    rest = Training(tmp_path / "exponential", epochs=3, resume=True).run()
    whole = Training(tmp_path / "whole", epochs=3).run()
    assert rest.epochs_run == [2, 3] and torch.equal(rest.network.weight, whole.network.weight)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "last.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="refused"):
        Training(tmp_path, resume=True).run()
    torch.save({"network": Evil()}, tmp_path / "last.pt")
    with pytest.raises(WeightsError, match="refused"):
        Training(tmp_path, resume=True).run()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("size", [0, 100, 1500])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, size: int) -> None:
    Training(tmp_path, epochs=1).run()
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[:size])
    with pytest.raises(WeightsError, match=r"last\.pt is refused"):
        Training(tmp_path, resume=True).run()


def test_a_state_of_something_else_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "last.pt")
    with pytest.raises(WeightsError, match="no checkpoint of a training"):
        Training(tmp_path, resume=True).run()


def test_a_full_disk_leaves_the_files_of_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Training(tmp_path).run(until=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def no_space(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(BusiMonaiError, match=r"No space left on device.*intact"):
        Training(tmp_path, resume=True).run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
