from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import Trainer
from monai.handlers import EarlyStopHandler, LrScheduleHandler, MetricsSaver, StatsHandler
from monai.transforms import Compose, Randomizable, Transform
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import Sampler

from busi_monai.bundle.shipped import find_bundle
from busi_monai.errors import BusiMonaiError, InputError
from busi_monai.settings import InferenceSettings
from busi_monai.training import (
    BALANCES,
    EpochSeed,
    ImageTriplets,
    RunFolder,
    TerminalProgress,
    TrainingScores,
    batch_share,
    distributed,
    handlers_of_rank,
    join_processes,
    run_folder,
    share_gradients,
    train_bundle,
    training_sampler,
    validation_share,
)


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


def shares(items: list, balance: str = "none", batch_size: int | None = None) -> Sampler[int]:
    batch_size = 4 * dist.get_world_size() if batch_size is None else batch_size
    return training_sampler(items, balance=balance, seed=7, batch_size=batch_size)


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


@pytest.mark.parametrize("balance", BALANCES)
def test_processes_have_the_batches_of_one(as_rank, balance: str) -> None:
    def sampler(items: list) -> Sampler[int]:
        return training_sampler(items, balance=balance)

    alone = [epoch["images"] for epoch in trained_on(sampler)]
    length, together = len(alone[0]) - len(alone[0]) % 8, []
    for rank in (0, 1):
        as_rank(rank)
        together.append([e["images"] for e in trained_on(lambda each: shares(each, balance))])
    for epoch, *parts in zip(alone, *together, strict=True):
        for start in range(0, length, 8):
            batch = [part[start // 2 : start // 2 + 4] for part in parts]
            assert [batch[0][0], batch[1][0]] == epoch[start : start + 2]
            assert sorted(chain(*batch)) == sorted(epoch[start : start + 8])


@pytest.mark.parametrize(
    ("images", "world", "batch_size", "last"),
    [(16, 2, 8, 4), (17, 2, 8, 4), (18, 2, 8, 2), (19, 2, 8, 2), (21, 2, 8, 3), (3, 4, 8, 2)],
)
def test_the_last_batch_is_filled_up(
    as_rank, images: int, world: int, batch_size: int, last: int
) -> None:
    items, shared = [{"class_label": 0}] * images, []
    for rank in range(world):
        as_rank(rank, world)
        shared.append(list(shares(items, batch_size=batch_size)))
    assert len({len(share) for share in shared}) == 1
    own = batch_size // world
    assert len(shared[0]) % own == last % own
    assert math.ceil(len(shared[0]) / own) == (images + batch_size - 2) // batch_size  # as of one
    drawn = Counter(chain(*shared))
    assert max(drawn.values()) - min(drawn.values()) <= 1 or images == 3
    if images == 17:  # one image alone is left out
        assert len(drawn) == 16


def test_a_batch_that_cannot_be_divided_is_refused(as_rank) -> None:
    as_rank(0, world=3)
    with pytest.raises(InputError, match="batch_size 16 cannot be divided among 3 processes"):
        batch_share(16)
    assert batch_share(15) == 5


def test_whole_batches_are_validated_once(as_rank) -> None:
    shared = []
    for rank in (0, 1, 2):
        as_rank(rank, world=3)
        shared.append(validation_share(range(14), 4))
    assert shared == [[0, 1, 2, 3, 12, 13], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert validation_share(range(8), 4) == [*range(8)]  # fewer batches than processes


@pytest.mark.parametrize("balance", ["sampling", "augmentation"])
def test_balanced_epochs_are_shared_too(as_rank, balance: str) -> None:
    items = [{"class_label": int(number > 14)} for number in range(20)]
    drawn = []
    for rank in (0, 1):
        as_rank(rank)
        drawn += [items[index]["class_label"] for index in shares(items, balance, 10)]
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
        EarlyStopHandler(1, float),
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
    steering = ["EpochSeed", "TrainingScores", "LrScheduleHandler"]
    assert names == [*steering, "EarlyStopHandler", "MetricsSaver"]


@pytest.fixture
def second_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Make this the second process of its machine; returns what is called to join."""
    called: list[object] = []
    for variable in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(dist, "init_process_group", called.append)
    monkeypatch.setattr(torch.cuda, "set_device", called.append)
    return called


def test_processes_join_by_their_devices(second_of_torchrun: list[object]) -> None:
    join_processes(torch.device("cuda:1"))
    assert second_of_torchrun == [torch.device("cuda:1"), "nccl"]
    join_processes(torch.device("cpu"))
    assert second_of_torchrun[2:] == ["gloo"]
    with pytest.raises(InputError, match="cuda:0 was asked for by all"):
        join_processes(torch.device("cuda:0"))


def test_a_process_alone_joins_nothing() -> None:
    join_processes(torch.device("cpu"))
    network = nn.Linear(1, 1)
    assert share_gradients(network) is network
    assert not dist.is_initialized()


class OnGpu(nn.Module):
    """Says that its parameters lie on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def parameters(self, recurse: bool = True) -> Iterator[object]:
        return iter([SimpleNamespace(device=torch.device("cuda:1"))])


def test_on_gpus_batch_normalisation_is_that_of_all(as_rank, monkeypatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(
        distributed, "DistributedDataParallel", lambda *args, **kwargs: made.append((args, kwargs))
    )
    as_rank(1)
    network = OnGpu()
    weight = network.norm.weight
    share_gradients(network)
    ((given,), options) = made[0]
    assert given is network and options == {"device_ids": [torch.device("cuda:1")]}
    assert isinstance(network.norm, nn.SyncBatchNorm) and network.norm.weight is weight


def test_two_stages_are_trained_in_one_process(second_of_torchrun: list[object]) -> None:
    with pytest.raises(InputError, match="train without torchrun"):
        train_bundle(["prepared"], "run", bundle="breast_ultrasound_two_stage")


def test_what_fails_in_the_first_process_fails_in_all(as_rank, monkeypatch) -> None:
    def refuse() -> None:
        raise InputError("not empty")

    with pytest.raises(InputError, match="not empty"):
        distributed.done_by_first(refuse)
    as_rank(1)
    for by_input, kind in ((True, InputError), (False, BusiMonaiError)):
        told = ("not empty", by_input)
        monkeypatch.setattr(distributed, "gathered", lambda _, told=told: [told, ("", False)])
        with pytest.raises(kind, match="not empty"):
            distributed.done_by_first(refuse)
    monkeypatch.setattr(distributed, "gathered", lambda value: [value])
    distributed.done_by_first(refuse)  # which only the first one does


def test_a_run_that_only_some_processes_see_is_refused(as_rank, monkeypatch, tmp_path) -> None:
    as_rank(1)
    monkeypatch.setattr(run_folder, "gathered", lambda value: [True, value])
    folder = RunFolder(tmp_path / "run", find_bundle(), resume=True)
    with pytest.raises(InputError, match="choose a folder that all machines share"):
        folder.start(InferenceSettings(), nn.Identity())
