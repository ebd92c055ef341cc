"""How many threads a process computes with, and for how long a waiting thread spins."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

__all__ = [
    "SINGLE_THREAD",
    "computing_threads",
    "in_order",
    "limit_threads",
    "prepare_threads",
    "share_of_threads",
    "usable_cores",
]

Given = TypeVar("Given")
Found = TypeVar("Found")

SINGLE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)
"""Environment of a process that others work beside, such as one that decodes images."""

WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long waiting threads spin before they sleep: rounds in GNU's OpenMP, ms in other ones.

Threads that spin on take their core from whatever else runs: beside a training on both cores, a
prediction took 1,584 ms instead of 57. Threads that sleep at once wake too late for the next layer:
alone, 34 ms instead of 26.
"""

WAIT_VARIABLES = ("OMP_WAIT_POLICY", *WAITING)
"""By these a user says how threads wait."""


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    On Linux these are the physical cores of the process's affinity, as many as the CPU quota of its
    control groups leaves; elsewhere all logical CPUs.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    cores = {_hardware_threads(cpu) for cpu in allowed}
    return max(1, min([len(cores), *map(math.ceil, _quotas())]))


def _hardware_threads(cpu: int, system: Path = Path("/sys/devices/system/cpu")) -> str:
    """Return the list of a core's hardware threads, by the number of one of them."""
    try:
        return (system / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def _quotas(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of the process's control groups and those above them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root  # version 1, or 2
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            yield from _quota(folder)
            if folder == base:
                break


def _quota(folder: Path) -> Iterator[float]:
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):  # no file, or no limit: "max"
            texts = [(folder / name).read_text(encoding="ascii") for name in files]
            quota, period = map(int, " ".join(texts).split())
            if quota > 0:
                yield quota / period


def prepare_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the number and the waiting of threads, for libraries that are imported afterwards.

    OpenMP, which torch computes with, gets ``usable_cores()`` on Linux; elsewhere torch finds them
    better. OpenCV and OpenBLAS get one thread: they only have single images and small matrices
    here. Variables that the user has set stay. Once torch is imported, new ones reach its
    subprocesses only.

    Examples:
        >>> variables = {"OMP_NUM_THREADS": "3"}
        >>> prepare_threads(variables)
        >>> variables["OMP_NUM_THREADS"], variables["GOMP_SPINCOUNT"]
        ('3', '1000')
    """
    if not environ.keys() & set(WAIT_VARIABLES):
        environ.update(WAITING)
    for name in ("OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        environ.setdefault(name, "1")
    if "OMP_NUM_THREADS" not in environ and sys.platform == "linux":
        environ["OMP_NUM_THREADS"] = str(usable_cores())


def computing_threads() -> int:
    """Return with how many threads this process is to compute, without asking torch.

    As ``OMP_NUM_THREADS`` says, else ``usable_cores()``.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(told)) if told.isdecimal() else usable_cores()


def in_order(
    function: Callable[[Given], Found], items: Iterable[Given], workers: int
) -> Iterator[Found]:
    """Yield a function's results in order, computed by several threads.

    Items are taken as they are needed, at most three for each worker ahead of what was yielded.

    Args:
        function: called in several threads at a time; what it raises is raised here.
        items: any number of them.
        workers: number of threads.

    Examples:
        >>> list(in_order(abs, [-1, 2, -3], workers=2))
        [1, 2, 3]
    """
    ahead: deque[Future[Found]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) >= 3 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def share_of_threads(jobs: int = 1) -> int:
    """Return how many of torch's threads each of some processes gets, at least 1.

    By itself torch takes a thread for each logical core and knows no quota; here it gets
    ``usable_cores()`` at the most, unless ``OMP_NUM_THREADS`` says otherwise.
    """
    import torch

    threads = int(torch.get_num_threads())
    if "OMP_NUM_THREADS" not in os.environ:
        threads = min(threads, usable_cores())
    return max(1, threads // jobs)


def limit_threads() -> None:
    """Hold this process to its threads where torch and OpenCV are imported already.

    That is so within ``python -m monai.bundle``. How waiting threads wait is decided before.
    """
    import cv2
    import torch

    torch.set_num_threads(share_of_threads())
    if "OPENCV_FOR_THREADS_NUM" not in os.environ:
        cv2.setNumThreads(1)
