"""Training in several processes that ``torchrun`` starts; in one alone, none of this does anything.

Each process has a GPU of its own and a share of every batch. The gradients of the shares are
averaged, so that all processes keep the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from busi_monai.devices import launched_by_torchrun, local_rank
from busi_monai.errors import BusiMonaiError, InputError

__all__ = [
    "batch_share",
    "done_by_first",
    "gathered",
    "is_first_process",
    "join_processes",
    "leave_processes",
    "process_count",
    "process_rank",
    "share_buffers",
    "share_gradients",
    "shared_count",
    "summary_writer",
    "validation_share",
]

Value = TypeVar("Value")


def join_processes(device: torch.device) -> None:
    """Join the processes that ``torchrun`` has started: by NCCL on GPUs, by gloo on CPUs.

    Raises:
        InputError: if a GPU was asked for by its number, which all processes would then share.
    """
    if not launched_by_torchrun() or dist.is_initialized():
        return
    if device.type != "cuda":
        dist.init_process_group("gloo")
        return
    if device.index != local_rank():
        raise InputError(
            f"each process has a GPU of its own, and {device} was asked for by all; leave out "
            "device_name (--device), or choose GPUs by the variable CUDA_VISIBLE_DEVICES"
        )
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")


def leave_processes() -> None:
    """Leave the group, once the first process has written what it had to."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def process_count() -> int:
    """Return how many processes train, 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first_process() -> bool:
    """Return whether this is the process that writes."""
    return process_rank() == 0


def gathered(value: Value) -> list[Value]:
    """Return the values of all processes, in their order; all have to call it."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value)
    return values


def done_by_first(task: Callable[[], object]) -> None:
    """Call a function in the first process alone; what fails there fails in all.

    Raises:
        InputError: as the function raised it in the first process.
        BusiMonaiError: in the other processes, if it raised something else.
    """
    error: Exception | None = None
    if is_first_process():
        try:
            task()
        except Exception as caught:
            error = caught
    message = "" if error is None else str(error) or type(error).__name__
    message, by_input = gathered((message, isinstance(error, InputError)))[0]
    if error is not None:
        raise error
    if message:
        raise (InputError if by_input else BusiMonaiError)(message)


def share_gradients(network: nn.Module) -> nn.Module:
    """Return the network to train: of several processes, one whose gradients are averaged.

    On GPUs, batch normalisation computes over the shares of all processes (``SyncBatchNorm``). For
    CPUs torch has none: there each process normalises by its own share.
    """
    if process_count() == 1:
        return network
    device = next(network.parameters()).device
    if device.type != "cuda":
        return DistributedDataParallel(network)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(synchronised, device_ids=[device])


def share_buffers(network: nn.Module) -> None:
    """Give all processes the first one's buffers, such as the means of batch normalisation."""
    if process_count() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def shared_count(count: Tensor) -> Tensor:
    """Return by what to divide a share's sum, so that the processes' average is the batch's mean.

    That is the mean count of a process where gradients are recorded, and ``count`` where they are
    not, as in a validation.
    """
    if process_count() == 1 or not torch.is_grad_enabled():
        return count
    total = count.detach().clone()
    dist.all_reduce(total)
    return total / process_count()


def batch_share(batch_size: int) -> int:
    """Return how many images of a batch each process takes.

    Raises:
        InputError: if the batch cannot be divided.

    Examples:
        >>> batch_share(16)  # of one process
        16
    """
    share, rest = divmod(batch_size, process_count())
    if rest or not share:
        raise InputError(
            f"batch_size {batch_size} cannot be divided among {process_count()} processes; choose "
            f"a multiple of {process_count()}"
        )
    return share


def validation_share(items: Sequence[Value], batch_size: int) -> list[Value]:
    """Return the items that this process validates: whole batches, as one process would have them.

    Where there are fewer batches than processes, each process validates everything.

    Examples:
        >>> validation_share(["a", "b", "c"], 2)  # of one process
        ['a', 'b', 'c']
    """
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    if len(batches) < process_count():
        return list(items)
    return [item for batch in batches[process_rank() :: process_count()] for item in batch]


def summary_writer(log_dir: str) -> Any:
    """Return TensorBoard's writer; in all but the first process, what can only be closed."""
    if is_first_process():
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(log_dir)
    return _Closed()


class _Closed:
    def close(self) -> None:
        """Do nothing."""
