"""How many threads a process computes with: its share of the cores, and no waiting thread spins."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

__all__ = [
    "SINGLE_THREAD",
    "limit_threads",
    "prepare_threads",
    "share_of_threads",
    "usable_cores",
]

SINGLE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)
"""Environment of a process that others work beside, such as one that decodes images."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""What keeps waiting threads of GNU's, LLVM's and Intel's OpenMP from spinning.

Two spinning threads beside another busy process are up to twenty times slower than one.
"""


def usable_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1.

    The affinity of the process and the CPU quota of its control group limit it.
    """
    from joblib import cpu_count

    return int(cpu_count(only_physical_cores=True))


def prepare_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the number and the waiting of threads, for libraries that are imported afterwards.

    OpenMP, which torch computes with, gets ``usable_cores()``. OpenCV and OpenBLAS get one thread:
    they only have single images and small matrices here. Variables that the user has set stay.

    Args:
        environ: the variables to add to. Once torch is imported, these reach its subprocesses only.

    Examples:
        >>> variables = {"OMP_NUM_THREADS": "3"}
        >>> prepare_threads(variables)
        >>> variables["OMP_NUM_THREADS"], variables["OMP_WAIT_POLICY"]
        ('3', 'PASSIVE')
    """
    if not WAITING.keys() & environ.keys():
        environ.update(WAITING)
    for name in ("OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        environ.setdefault(name, "1")
    if "OMP_NUM_THREADS" not in environ:
        environ["OMP_NUM_THREADS"] = str(usable_cores())


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

    That is so within ``python -m monai.bundle``. Whether waiting threads spin is decided before.
    """
    import cv2
    import torch

    torch.set_num_threads(share_of_threads())
    if "OPENCV_FOR_THREADS_NUM" not in os.environ:
        cv2.setNumThreads(1)
