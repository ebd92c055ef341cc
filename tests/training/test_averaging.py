from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from busi_monai.training import ModelEma, UpdateEma


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
