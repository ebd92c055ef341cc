"""Folds in processes that share the threads out and never outlive the one that began them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path
from typing import Any

from busi_monai.devices import choose_precision
from busi_monai.errors import BusiMonaiError, InputError
from busi_monai.threads import share_of_threads

__all__ = ["run_in_processes", "run_in_turn"]

logger = logging.getLogger(__name__)


def run_in_turn(task: Callable[..., object], arguments: Mapping[str, tuple[Any, ...]]) -> None:
    """Call a function once for each name, one after the other, in this process.

    A failing call does not stop the others; an interrupt does.

    Args:
        task: the function.
        arguments: of each call, by the name that it is called in messages.

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
    task: Callable[..., object], arguments: Mapping[str, tuple[Any, ...]], jobs: int, logs: Path
) -> None:
    """Call a function in processes of its own, some at a time, and wait for all.

    A failing call does not stop the others. When this process ends, however it ends, its workers
    end too, so that two never write one folder.

    Args:
        task: importable by name.
        arguments: of each call, by the name that it is called in messages.
        jobs: how many run at once; each gets its part of torch's threads.
        logs: folder for ``<name>.log``, what each call prints.

    Raises:
        InputError: as the first call that raised one.
        BusiMonaiError: if a call failed otherwise.
    """
    threads = share_of_threads(jobs)
    choose_precision("auto", "cpu")  # if a measurement decides, it decides for all processes
    context = multiprocessing.get_context("spawn")
    waiting = list(arguments.items())
    running: dict[Any, tuple[str, Any, Any, float]] = {}
    failures: list[tuple[str, str, bool]] = []
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, values = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                log = str(logs / f"{name}.log")
                process = context.Process(target=_work, args=(task, values, threads, log, sender))
                process.start()
                sender.close()
                running[process.sentinel] = name, process, receiver, time.monotonic()
                logger.info("%s: started; its course is in %s", name, log)
            for sentinel in connection.wait(list(running)):
                name, process, receiver, began = running.pop(sentinel)
                process.join()
                error = _error_of(process, receiver)
                if error is not None:
                    failures.append((name, *error))
                    logger.error("%s: failed: %s", name, error[0])
                else:
                    logger.info("%s: done in %.0f s", name, time.monotonic() - began)
    finally:
        for _, process, _, _ in running.values():
            process.terminate()
        for _, process, _, _ in running.values():
            process.join()
    if failures:
        name, message, by_input = failures[0]
        raise (InputError if by_input else BusiMonaiError)(f"{name}: {message}")


def _error_of(process: Any, receiver: Any) -> tuple[str, bool] | None:
    try:
        if receiver.poll():
            found: tuple[str, bool] | None = receiver.recv()
            return found
    except EOFError:
        pass
    finally:
        receiver.close()
    return f"its process ended with exit code {process.exitcode}", False


def _work(
    task: Callable[..., object], values: tuple[Any, ...], threads: int, log: str, sender: Any
) -> None:
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle, which ends this process
    with Path(log).open("a", encoding="utf-8") as stream:
        sys.stdout = sys.stderr = stream
        level, form = logging.INFO, "%(asctime)s %(message)s"
        logging.basicConfig(level=level, format=form, stream=stream, force=True)
        import torch

        torch.set_num_threads(threads)
        try:
            task(*values)
        except Exception as error:
            logger.exception("failed")
            sender.send((f"{error or type(error).__name__} (more in {log})", _is_input(error)))
            return
        sender.send(None)


def _is_input(error: Exception) -> bool:
    return isinstance(error, InputError)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
