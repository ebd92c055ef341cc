from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import Trainer
from monai.handlers import LrScheduleHandler, MetricsSaver, StatsHandler
from monai.transforms import Compose, Randomizable, Transform
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import Sampler

from busi_monai.bundle.shipped import find_bundle
from busi_monai.training import (
    EpochSeed,
    ImageTriplets,
    TerminalProgress,
    TrainingScores,
    handlers_of_rank,
    schedule_handler,
    training_sampler,
)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def as_rank() -> Iterator[Callable[..., None]]:
    """Make this process one of a group's, without the others."""

    def leave() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def join(rank: int, world: int = 2) -> None:
        leave()
        dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())

    yield join
    leave()


def trained_on(
    sampler: Callable[[list], Sampler[int]], *, first: int = 1, workers: int = 0
) -> list[dict[str, list[float]]]:
    """What each of the epochs up to the second draws: images, augmentation, and all else."""
    items = [{"id": number, "class_label": number % 3} for number in range(20)]
    augmentation = Compose([Augmented()])
    loader = DataLoader(
        Dataset(items, augmentation), sampler=sampler(items), batch_size=4, num_workers=workers
    )
    epochs: list[dict[str, list[float]]] = []

    def step(engine: Engine, batch: dict[str, torch.Tensor]) -> None:
        epochs[-1]["images"] += batch["id"].tolist()
        epochs[-1]["augmentation"] += batch["noise"].tolist()
        numpys = np.random.rand()  # noqa: NPY002 - what MONAI's transforms may draw from
        epochs[-1]["others"] += [torch.rand(()).item(), random.random(), numpys]

    trainer = Trainer(device="cpu", max_epochs=2, data_loader=loader, iteration_update=step)

    @trainer.on(Events.STARTED)
    def resume(engine: Engine) -> None:
        engine.state.epoch = first - 1

    @trainer.on(Events.EPOCH_STARTED)
    def begin(engine: Engine) -> None:
        epochs.append({"images": [], "augmentation": [], "others": []})

    EpochSeed(7, augmentation).attach(trainer)
    trainer.run()
    return epochs


class Augmented(Randomizable, Transform):
    def __call__(self, item: dict[str, object]) -> dict[str, object]:
        return {**item, "noise": self.R.uniform()}


def shares(items: list, balance: str = "none") -> Sampler[int]:
    return training_sampler(items, balance=balance, seed=7)


@pytest.mark.parametrize("workers", [0, 1])
def test_each_process_draws_its_own_and_all_share_the_images(as_rank, workers: int) -> None:
    ranks = []
    for rank in (0, 1):
        as_rank(rank)
        torch.manual_seed(rank)  # whatever came before the epoch
        ranks.append(trained_on(shares, workers=workers))
    for first, second in zip(*ranks, strict=True):
        assert sorted(first["images"] + second["images"]) == list(range(20))
        assert len(first["images"]) == len(second["images"]) == 10
        assert not set(first["augmentation"]) & set(second["augmentation"])
        assert not set(first["others"]) & set(second["others"])
    assert ranks[0][0]["images"] != ranks[0][1]["images"]


def test_a_process_draws_the_same_again_and_when_it_is_resumed(as_rank) -> None:
    as_rank(1)
    drawn = trained_on(shares)
    assert trained_on(shares) == drawn
    assert trained_on(shares, first=2) == drawn[1:]


def test_a_group_of_one_draws_what_a_single_process_draws(as_rank) -> None:
    alone = trained_on(training_sampler)
    as_rank(0, world=1)
    assert trained_on(shares) == alone


@pytest.mark.parametrize("balance", ["sampling", "augmentation"])
def test_balanced_epochs_are_shared_too(as_rank, balance: str) -> None:
    items = [{"class_label": int(number > 14)} for number in range(20)]
    drawn = []
    for rank in (0, 1):
        as_rank(rank)
        drawn += [items[index]["class_label"] for index in shares(items, balance)]
    assert len(drawn) == (20 if balance == "sampling" else 30)
    if balance == "augmentation":
        assert sum(drawn) == 15


def test_all_processes_start_from_the_same_weights(as_rank) -> None:
    configs = find_bundle() / "configs"
    started = []
    for rank in (0, 1):
        as_rank(rank)
        parser = ConfigParser()
        parser.read_config([str(configs / "train.yaml"), str(configs / "multi_gpu_train.yaml")])
        parser.update({"encoder": "unet", "encoder_options": {"widths": [4, 8]}})
        for position, line in enumerate(parser["initialize"]):
            if "set_determinism" in line:
                parser.get_parsed_content(f"initialize#{position}")
        started.append(parser.get_parsed_content("network_def").state_dict())
    assert len(started[0]) > 10
    torch.testing.assert_close(started[0], started[1], rtol=0, atol=0)


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
