from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from busi_monai.training import (
    OPTIMIZERS,
    SCHEDULES,
    make_optimizer,
    make_schedule,
    schedule_handler,
)


def rates_of(name: str, epochs: int = 4, iterations: int = 5) -> list[float]:
    """The rate at the start of every iteration, and the one after the last."""
    network = nn.Linear(2, 2)
    optimizer = make_optimizer("sgd", network, learning_rate=0.1)
    schedule = make_schedule(name, optimizer, epochs=epochs, iterations=iterations)
    rates: list[float] = []

    def step(engine: Engine, batch: int) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    trainer = Engine(step)
    metrics = {"val_score": 0.5}
    state = SimpleNamespace(metrics=metrics, key_metric_name="val_score", epoch=0)
    schedule_handler(name, schedule, SimpleNamespace(state=state)).attach(trainer)
    trainer.run(range(iterations), max_epochs=epochs)
    return [*rates, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_lasts_as_long_as_the_training(name: str) -> None:
    rates = rates_of(name)
    assert len(rates) == 21
    assert max(rates) == pytest.approx(0.1, rel=0.05)


def test_one_cycle_rises_and_falls_within_the_training() -> None:
    rates = rates_of("one_cycle")
    assert rates[0] < 0.01
    assert rates[-2] < 0.001  # the last one that is used


def test_cosine_steps_after_every_epoch() -> None:
    rates = rates_of("cosine")
    assert len(set(rates[:5])) == 1
    assert rates[5] < rates[4]
    assert rates[-1] == pytest.approx(0, abs=1e-8)


def test_poly_ends_at_zero() -> None:
    assert rates_of("poly")[-1] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("score", [0.5, -0.5])
def test_plateau_lowers_the_rate_when_the_score_stands_still(score: float) -> None:
    optimizer = make_optimizer("sgd", nn.Linear(2, 2), learning_rate=0.1)
    options = {"patience": 1, "factor": 0.5}
    schedule = make_schedule("plateau", optimizer, epochs=9, iterations=1, options=options)
    for _ in range(3):
        schedule.step(score)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_plateau_steps_only_after_epochs_that_were_validated() -> None:
    optimizer = make_optimizer("sgd", nn.Linear(2, 2), learning_rate=0.1)
    options = {"patience": 0, "factor": 0.5}
    schedule = make_schedule("plateau", optimizer, epochs=9, iterations=1, options=options)
    state = SimpleNamespace(metrics={}, key_metric_name="val_score", epoch=0)
    trainer = Engine(lambda engine, batch: optimizer.step())

    @trainer.on(Events.EPOCH_COMPLETED(every=2))
    def validate(engine: Engine) -> None:
        state.epoch, state.metrics["val_score"] = engine.state.epoch, 0.5

    schedule_handler("plateau", schedule, SimpleNamespace(state=state)).attach(trainer)
    trainer.run([0], max_epochs=7)
    # validated after epochs 2, 4 and 6: two of them without a better score
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


def test_a_training_without_epochs_is_refused() -> None:
    optimizer = make_optimizer("sgd", nn.Linear(2, 2), learning_rate=0.1)
    with pytest.raises(ValueError, match="max_epochs=0"):
        make_schedule("one_cycle", optimizer, epochs=0, iterations=5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_norms_are_not_decayed(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = make_optimizer(name, network, learning_rate=0.1, weight_decay=0.5)
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays[id(network[0].weight)] == 0.5
    assert decays[id(network[0].bias)] == decays[id(network[1].weight)] == 0.0


def test_options_reach_the_optimizer() -> None:
    optimizer = make_optimizer("sgd", nn.Linear(1, 1), learning_rate=0.1, options={"momentum": 0.9})
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_encoders_rate_is_its_share_of_the_others(name: str) -> None:
    network = nn.ModuleDict({"encoder": nn.Conv2d(1, 2, 3), "head": nn.Linear(2, 2)})
    optimizer = make_optimizer(
        "sgd",
        wrapped(network),
        learning_rate=0.1,
        weight_decay=0.5,
        options={"encoder_factor": 0.25, "momentum": 0.9},
    )
    schedule = make_schedule(name, optimizer, epochs=4, iterations=5)
    for _ in range(3):
        optimizer.step()
        schedule.step(*([0.5] if name == "plateau" else []))
        rates = {
            id(parameter): group["lr"]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        head = optimizer.param_groups[0]["lr"]
        assert [rates[id(p)] for p in network["head"].parameters()] == [head, head]
        shares = [rates[id(p)] / head for p in network["encoder"].parameters()]
        assert shares == pytest.approx([0.25, 0.25])
    decayed = [p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]]
    assert {p.shape for p in decayed} == {network["encoder"].weight.shape, (2, 2)}


def wrapped(network: nn.Module) -> nn.Module:
    """As ``DistributedDataParallel`` has it."""
    outer = nn.Module()
    outer.module = network
    return outer


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_an_encoder_factor_must_be_above_zero(factor: float) -> None:
    with pytest.raises(ValueError, match="encoder_factor must be a number above 0"):
        make_optimizer(
            "sgd", nn.Linear(1, 1), learning_rate=0.1, options={"encoder_factor": factor}
        )


def test_an_encoder_factor_needs_an_encoder() -> None:
    with pytest.raises(ValueError, match="encoder_factor: a Linear has no encoder"):
        make_optimizer("sgd", nn.Linear(1, 1), learning_rate=0.1, options={"encoder_factor": 0.3})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="lion"):
        make_optimizer("lion", nn.Linear(1, 1), learning_rate=0.1)
    optimizer = make_optimizer("adam", nn.Linear(1, 1), learning_rate=0.1)
    with pytest.raises(ValueError, match="triangle"):
        make_schedule("triangle", optimizer, epochs=1, iterations=1)
