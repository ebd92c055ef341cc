"""What several processes need that work on one folder: locks, and workers that end with us."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from pebble import ProcessExpired, ProcessPool

from busi_monai.devices import choose_precision
from busi_monai.errors import BusiMonaiError, InputError
from busi_monai.threads import share_of_threads

__all__ = ["LOCKS", "any_locked", "locked", "run_in_processes", "run_in_turn", "usable_gpus"]

logger = logging.getLogger(__name__)

LOCKS = ".locks"
"""Folder of the lock files within an experiment's."""

PATIENCE = 0.5  # seconds; ``any_locked`` of another process takes a lock for a moment


@contextmanager
def locked(folder: Path, name: str, refusal: str | None = None) -> Iterator[None]:
    """Keep other processes from doing the same within the folder meanwhile.

    Args:
        folder: the experiment's.
        name: what is done.
        refusal: message of the error if another process does it; by default it is waited for.

    Raises:
        InputError: with ``refusal``.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with locked(Path(folder), "fold_0"):
        ...         any_locked(Path(folder), "fold_*")
        ...     any_locked(Path(folder), "fold_*")
        True
        False
    """
    lock = FileLock(folder / LOCKS / f"{name}.lock")
    try:
        lock.acquire(timeout=-1 if refusal is None else PATIENCE)
    except Timeout:
        raise InputError(str(refusal)) from None
    try:
        yield
    finally:
        lock.release()


def any_locked(folder: Path, pattern: str) -> bool:
    """Return whether a process holds a lock of the folder whose name fits the pattern."""
    for path in sorted((folder / LOCKS).glob(f"{pattern}.lock")):
        try:
            with FileLock(path).acquire(blocking=False):
                pass
        except Timeout:
            return True
    return False


def usable_gpus(requested: str) -> list[str]:
    """Return the GPUs to share out, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        requested: the device's name; with another one than ``auto`` or ``cuda``, all processes
            compute there, and nothing is shared out.
    """
    if requested not in {"auto", "cuda"}:
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return named.split(",")[:count]


def run_in_turn(task: Callable[..., object], arguments: Mapping[str, tuple[Any, ...]]) -> None:
    """Call a function once for each name, one after the other, in this process.

    A failing call does not stop the others; an interrupt does.

    Raises:
        Exception: the first that a call raised, after all calls.
    """
    failures: list[Exception] = []
    for name, values in arguments.items():
        try:
            task(*values)
        except Exception as error:
            logger.error("%s: failed: %s", name, error or type(error).__name__)
            failures.append(error)
    if failures:
        raise failures[0]


def run_in_processes(
    task: Callable[..., object],
    arguments: Mapping[str, tuple[Any, ...]],
    jobs: int,
    logs: Path | None = None,
    gpus: Sequence[str] = (),
) -> None:
    """Call a function in processes of its own, some at a time, and wait for all.

    A failing call does not stop the others. When this process ends, however it ends, its workers
    end too, so that two never write one folder.

    Args:
        task: importable by name.
        arguments: of each call, by the name that it is called in messages.
        jobs: how many run at once; each gets its part of torch's threads.
        logs: folder for ``<name>.log``, what each call prints; without, it goes where ours goes.
        gpus: what ``usable_gpus`` gives. Each process sees one of them alone; calls that run at
            once have different ones, as long as there are enough.

    Raises:
        InputError: as the first call that raised one.
        BusiMonaiError: if a call failed otherwise.
    """
    threads = share_of_threads(jobs)
    choose_precision("auto", "cpu")  # if a measurement decides, it decides for all processes
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    began, failures = time.monotonic(), []
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=jobs, max_tasks=1, context=spawn)
    places = tempfile.mkdtemp()
    own = (threads, places, [gpus[place % len(gpus)] for place in range(jobs)] if gpus else [])
    try:
        waiting: dict[Future[Any], str] = {}
        for name, values in arguments.items():
            log = None if logs is None else str(logs / f"{name}.log")
            waiting[pool.schedule(_work, args=(task, values, log, *own))] = name
            if log is not None:
                logger.info("%s: its course is in %s", name, log)
        for future in as_completed(waiting):
            name = waiting[future]
            try:
                error = future.result()
            except ProcessExpired as expired:
                error = f"its process ended with exit code {expired.exitcode}", False
            if error is None:
                logger.info("%s: done after %.0f s", name, time.monotonic() - began)
            else:
                failures.append((name, *error))
                logger.error("%s: failed: %s", name, error[0])
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()
        shutil.rmtree(places, ignore_errors=True)
    if failures:
        name, message, by_input = failures[0]
        raise (InputError if by_input else BusiMonaiError)(f"{name}: {message}")


def _work(
    task: Callable[..., object],
    values: tuple[Any, ...],
    log: str | None,
    threads: int,
    places: str,
    gpus: Sequence[str],
) -> tuple[str, bool] | None:
    """Return what failed, and whether by the user's input: not every error can be pickled."""
    _end_with_parent()
    if gpus:  # before torch looks for them
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[_free_place(Path(places), len(gpus))]
    if log is not None:
        sys.stdout = sys.stderr = Path(log).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
    form, hours = "%(asctime)s %(message)s", None if log else "%H:%M:%S"
    level = logging.INFO if log else logging.WARNING
    logging.basicConfig(level=level, format=form, datefmt=hours, stream=sys.stderr, force=True)
    import torch

    torch.set_num_threads(threads)
    try:
        task(*values)
    except Exception as error:
        more = "" if log is None else f" (more in {log})"
        logger.log(logging.ERROR if log else logging.DEBUG, "failed", exc_info=True)
        return f"{error or type(error).__name__}{more}", isinstance(error, InputError)
    return None


def _free_place(folder: Path, count: int) -> int:
    """Return a number below ``count`` that no other process has, and keep it to this one's end."""
    while True:
        for number in range(count):
            lock = FileLock(folder / f"{number}.lock")
            with contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
                _kept.append(lock)
                return number
        time.sleep(0.05)  # the process before this one is about to end


_kept: list[BaseFileLock] = []


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
