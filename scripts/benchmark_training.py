"""How much of the bare network's speed the full training engine keeps.

Trains a configuration through the whole engine (loading, augmentation, handlers, weight average)
and, between its epochs in the same process, times the bare network step on random tensors of the
same size: forward, loss, backward, optimiser. Prints both as images a second, and their ratio.

    python scripts/benchmark_training.py [--prepared DIR] [--config cpu] [--epochs 4]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from busi_monai.threads import prepare_threads

prepare_threads()  # before torch is imported

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from busi_monai.bundle.shipped import find_bundle, find_config
from busi_monai.curation import prepare_dataset
from busi_monai.phantoms import write_phantom_dataset


class Stopwatch:
    """Collects the seconds of the engine's iterations, and of bare steps after each epoch."""

    def __init__(self, bare_step: Any, bare_steps: int) -> None:
        self.bare_step = bare_step
        self.bare_steps = bare_steps
        self.engine_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self._clock = 0.0

    def attach(self, engine: Engine) -> None:
        """Time whole iterations, from the end of one to the end of the next."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._lap)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._bare)

    def _start(self, engine: Engine) -> None:
        self._clock = time.perf_counter()

    def _lap(self, engine: Engine) -> None:
        now = time.perf_counter()
        if len(engine.state.output["image"]) == engine.state.full_batch:
            self.engine_seconds.append(now - self._clock)
        self._clock = now

    def _bare(self, engine: Engine) -> None:
        for _ in range(self.bare_steps):
            started = time.perf_counter()
            self.bare_step()
            self.bare_seconds.append(time.perf_counter() - started)


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", help="a prepared dataset; by default 160 phantoms")
    parser.add_argument("--fold", type=int)
    parser.add_argument("--config", default="cpu")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    found = measure(options.prepared, options.config, options.epochs, options.fold)
    print(f"threads            {torch.get_num_threads()}")
    print(f"full engine        {found['engine_ms']:.0f} ms an iteration of {found['batch']:.0f}")
    print(f"bare network step  {found['bare_ms']:.0f} ms")
    print(f"ratio              {found['ratio']:.1%}")


def measure(
    prepared: str | Path | None, config: str, epochs: int, fold: int | None = None
) -> dict[str, float]:
    """Return the milliseconds of an engine's iteration and of a bare step, and their ratio."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        data = prepared or phantoms(Path(folder))
        workflow = make_workflow(data, Path(folder) / "run", config, epochs, fold)
        batch = int(workflow.parser.get_parsed_content("batch_size"))
        watch = Stopwatch(bare_step(workflow, batch), bare_steps=10)
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.state.full_batch = batch
        watch.attach(trainer)
        workflow.run()
    warm = len(watch.engine_seconds) // epochs
    engine = statistics.median(watch.engine_seconds[warm:])
    bare = statistics.median(watch.bare_seconds[10:])
    return {
        "batch": batch, "engine_ms": 1000 * engine, "bare_ms": 1000 * bare, "ratio": bare / engine
    }  # fmt: skip


def phantoms(folder: Path) -> Path:
    """Make and prepare phantoms of the size of real images."""
    source = write_phantom_dataset(folder / "phantoms", cases=160, seed=0)
    prepare_dataset(source, folder / "prepared")
    return folder / "prepared"


def make_workflow(
    prepared: str | Path, run: Path, config: str, epochs: int, fold: int | None
) -> ConfigWorkflow:
    """Return the initialised training workflow, without validation."""
    train = find_bundle() / "configs" / "train.yaml"
    workflow = ConfigWorkflow(
        config_file=[str(train), str(find_config(config))],
        meta_file=str(train.parent / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        dataset_dir=str(prepared),
        output_dir=str(run),
        fold=fold,
        max_epochs=epochs,
        val_interval=epochs + 1,
    )
    workflow.initialize()
    return workflow


def bare_step(workflow: ConfigWorkflow, batch: int) -> Any:
    """Return a training step of the same network on random tensors, without any engine."""
    parser = workflow.parser
    settings = parser.get_parsed_content("settings")
    precision = parser.get_parsed_content("precision_choice").name
    network = parser.get_parsed_content("network")
    optimizer = parser.get_parsed_content("optimizer_def")
    loss = parser.get_parsed_content("loss")
    inferer = parser.get_parsed_content("train#inferer")
    image = torch.rand(batch, 1, *settings.image_size)
    targets = {
        "seg": (torch.rand(batch, 1, *settings.image_size) > 0.9).float(),
        "cls": torch.randint(0, len(settings.classes), (batch,)),
    }
    logging.getLogger(__name__).info("%s %s", tuple(image.shape), precision)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss(inferer(image, network), targets).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
