from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from monai.handlers import LrScheduleHandler, MetricsSaver, StatsHandler

from busi_monai.training import (
    EpochSeed,
    ImageTriplets,
    TerminalProgress,
    TrainingScores,
    distributed_sampler,
    handlers_of_rank,
    schedule_handler,
)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> object:
    def pretend(rank: int, world: int = 2) -> None:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "is_available", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda *args: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda *args: world)

    return pretend


@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_the_shares_are_parts_of_one_draw(as_rank, balance: str) -> None:
    items = [{"class_label": index % 3} for index in range(20)]
    shares = []
    for rank in (0, 1):
        as_rank(rank)
        sampler = distributed_sampler(items, balance=balance)
        torch.manual_seed(5)  # what EpochSeed does in every process
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1]) == 10
    if balance == "none":
        assert sorted(shares[0] + shares[1]) == list(range(20))
    assert shares[0] != shares[1]


def handlers() -> list[object]:
    schedule = SimpleNamespace(step=lambda: None)
    return [
        EpochSeed(0),
        TrainingScores(SimpleNamespace(parts={})),
        LrScheduleHandler(schedule),
        StatsHandler(),
        MetricsSaver("."),
        ImageTriplets(None),
        TerminalProgress(),
    ]


def test_the_first_process_has_every_handler(as_rank) -> None:
    as_rank(0)
    given = handlers()
    assert handlers_of_rank(given) == given


def test_the_others_steer_but_do_not_write(as_rank) -> None:
    as_rank(1)
    names = [type(handler).__name__ for handler in handlers_of_rank(handlers())]
    assert names == ["EpochSeed", "TrainingScores", "LrScheduleHandler", "MetricsSaver"]


def test_a_plateau_follows_the_first_process(one_process: None) -> None:
    steps: list[float] = []
    state = SimpleNamespace(metrics={"val_score": 0.4}, key_metric_name="val_score", epoch=1)
    handler = schedule_handler(
        "plateau", SimpleNamespace(step=steps.append), SimpleNamespace(state=state)
    )
    handler(SimpleNamespace(state=SimpleNamespace(epoch=1)))
    assert steps == [0.4]
