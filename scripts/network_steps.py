"""A training step and a prediction of a configuration's network on random images, to be timed.

Call ``busi_monai.threads.prepare_threads`` before this is imported: it imports torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser

from busi_monai.bundle.configurations import read_configuration
from busi_monai.bundle.shipped import find_bundle, find_config
from busi_monai.bundle.workflow import laid_configuration
from busi_monai.training import MultiTaskLoss
from busi_monai.training.run_folder import resolved_section

__all__ = ["configured", "make_steps", "median_seconds"]


def configured(overlay: str) -> dict[str, Any]:
    """Return the shipped training configuration with an overlay laid on."""
    files = (find_bundle() / "configs" / "train.yaml", find_config(overlay))
    return laid_configuration(map(read_configuration, files))


def make_steps(
    config: Mapping[str, Any], precision: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a training step of a whole batch, and the prediction of one image with its mirror.

    Args:
        config: a training configuration.
        precision: ``fp32`` or ``bf16``.
    """
    section = resolved_section(config, "network_def")
    network = ConfigParser({"network_def": section}).get_parsed_content("network_def")
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    loss = MultiTaskLoss()
    images = torch.rand(config["batch_size"], 1, *config["image_size"])
    targets = {
        "seg": (torch.rand_like(images) > 0.9).float(),
        "cls": torch.arange(len(images)) % 3,
    }

    def forward(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output: dict[str, torch.Tensor] = network(batch)
        return output

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        output = {name: logits.float() for name, logits in forward(images).items()}
        loss(output, targets).backward()
        optimizer.step()

    def predict() -> None:
        network.eval()
        with torch.inference_mode():
            forward(images[:1])
            forward(images[:1].flip(-1))

    return step, predict


def median_seconds(call: Callable[[], None], *, calls: int = 5, seconds: float = 0.0) -> float:
    """Return the median of some calls, for some seconds at least, after two that do not count."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < calls + 2 or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return statistics.median(found[2:])
