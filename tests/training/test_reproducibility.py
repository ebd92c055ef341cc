from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose, RandAdjustContrastd

from busi_monai.training import EpochSeed


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


def test_every_epoch_draws_anew() -> None:
    drawn = draws(0)
    assert drawn[1] != drawn[2] != drawn[3]


def test_an_epoch_draws_the_same_wherever_training_started() -> None:
    torch.rand(7)
    assert draws(0, first=3)[3] == draws(0)[3]


def test_another_seed_draws_otherwise() -> None:
    assert draws(0)[1] != draws(1)[1]


def test_a_kept_run_can_be_drawn_again() -> None:
    trainer = Engine(lambda engine, batch: None)
    EpochSeed(0).attach(trainer)
    seeds: list[int] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: seeds.append(torch.initial_seed())
    )
    trainer.run([0], max_epochs=3)
    assert seeds == [3964924996, 3141116543, 2613022947]
