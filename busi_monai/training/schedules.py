"""Optimisers and learning-rate schedules by name, as the configurations give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

__all__ = [
    "ANY_LENGTH",
    "OPTIMIZERS",
    "PER_ITERATION",
    "SCHEDULES",
    "make_optimizer",
    "make_schedule",
]

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def _one_cycle(optimizer: Optimizer, steps: int, **kwargs: Any) -> Any:
    rates = [group["lr"] for group in optimizer.param_groups]
    return lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=steps, **kwargs)


def _cosine(optimizer: Optimizer, steps: int, **kwargs: Any) -> Any:
    return lr_scheduler.CosineAnnealingLR(optimizer, **{"T_max": steps, **kwargs})


def _poly(optimizer: Optimizer, steps: int, **kwargs: Any) -> Any:
    return lr_scheduler.PolynomialLR(optimizer, total_iters=steps, **{"power": 0.9, **kwargs})


def _constant(optimizer: Optimizer, steps: int, **kwargs: Any) -> Any:
    return lr_scheduler.ConstantLR(optimizer, **{"factor": 1.0, **kwargs})


def _plateau(optimizer: Optimizer, steps: int, **kwargs: Any) -> Any:
    # a relative threshold would take a standing negative score for an improvement
    return lr_scheduler.ReduceLROnPlateau(
        optimizer, **{"mode": "max", "threshold_mode": "abs", **kwargs}
    )


SCHEDULES: dict[str, Callable[..., Any]] = {
    "one_cycle": _one_cycle,
    "cosine": _cosine,
    "poly": _poly,
    "constant": _constant,
    "plateau": _plateau,
}
PER_ITERATION = ("one_cycle", "poly")
ANY_LENGTH = ("constant", "plateau")
"""Schedules that are the same whatever the length of the training."""


def make_optimizer(
    name: str,
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> Optimizer:
    """Return an optimiser over the network's parameters.

    Args:
        name: one of ``OPTIMIZERS``.
        network: whose parameters are trained; biases and normalisation weights (tensors of one
            dimension) are not decayed.
        learning_rate: the peak or starting rate.
        weight_decay: for tensors of two or more dimensions.
        options: further arguments of the optimiser (``momentum`` for ``sgd``), and
            ``encoder_factor``: the encoder's rate is the others' times it, as for pretrained
            weights that should change less than fresh ones.

    Raises:
        ValueError: for an unknown name, an ``encoder_factor`` that is not above 0, or one for a
            network without an encoder.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; expected one of {', '.join(OPTIMIZERS)}")
    further = dict(options or {})
    factor = float(further.pop("encoder_factor", 1.0))
    if not 0 < factor < math.inf:
        raise ValueError(f"encoder_factor must be a number above 0, got {factor}")
    encoder: set[nn.Parameter] = set()
    if factor != 1:
        network = getattr(network, "module", network)
        part = getattr(network, "encoder", None)
        if not isinstance(part, nn.Module):
            raise ValueError(f"encoder_factor: a {type(network).__name__} has no encoder")
        encoder = set(part.parameters())
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": members, "lr": rate, "weight_decay": decay}
        for inside, rate in ((False, learning_rate), (True, learning_rate * factor))
        for matrices, decay in ((True, weight_decay), (False, 0.0))
        if (
            members := [
                parameter
                for parameter in parameters
                if (parameter in encoder) is inside and (parameter.ndim > 1) is matrices
            ]
        )
    ]
    return OPTIMIZERS[name](groups, lr=learning_rate, **further)


def make_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    epochs: int,
    iterations: int,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return a learning-rate scheduler that ends with the training.

    Args:
        name: one of ``SCHEDULES``.
        optimizer: the optimiser; its rate is the peak (``one_cycle``) or the start (the others).
        epochs: length of the training.
        iterations: iterations in an epoch.
        options: arguments of the torch scheduler (``T_max``, ``eta_min``, ``patience``, …).

    Raises:
        ValueError: for an unknown name, or without an epoch or an iteration.
    """
    if min(epochs, iterations) < 1:
        raise ValueError(
            f"a training needs at least one epoch and one iteration, got max_epochs={epochs} and "
            f"{iterations} iterations"
        )
    if name not in SCHEDULES:
        raise ValueError(f"unknown lr_schedule {name!r}; expected one of {', '.join(SCHEDULES)}")
    steps = epochs * iterations if name in PER_ITERATION else epochs
    return SCHEDULES[name](optimizer, steps, **(options or {}))
