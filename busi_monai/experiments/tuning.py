"""Search the configuration for the highest validation score, resumable and in several processes."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

from busi_monai.devices import choose_precision
from busi_monai.errors import BusiMonaiError
from busi_monai.experiments.tuning_outputs import write_images, write_overview, write_record
from busi_monai.experiments.tuning_plan import TuningPlan
from busi_monai.experiments.tuning_study import require_optuna
from busi_monai.experiments.tuning_trials import work
from busi_monai.records import RunRecord
from busi_monai.threads import share_of_threads

__all__ = ["TuningPlan", "tune"]

logger = logging.getLogger(__name__)


def tune(plan: TuningPlan, *, trials: int = 20, jobs: int = 1) -> Path:
    """Search until there are ``trials`` trials, and return the search's folder.

    Call it again after an interrupt, or at the same time from other processes: each continues what
    others have left and adds what is missing. Only training and validation images are read.

    Args:
        plan: what is searched.
        trials: how many there are to be in all, earlier ones included.
        jobs: worker processes; with more than one, each gets its share of the threads.

    Returns:
        A folder with ``trials.csv``, ``trials/NNNN`` (a run each), ``best.yaml``, ``history.png``,
        ``importances.png`` and ``run.json``.

    Raises:
        InputError: if a dataset, configuration, key or device is not there, a package is missing,
            or the folder holds something else or another search.
        BusiMonaiError: if the first trials all fail, or a worker process ends too early.
    """
    require_optuna()
    plan.check()
    record = RunRecord()
    plan.begin()
    ended = None
    try:
        if jobs == 1:
            work(plan, trials)
        else:
            ended = _work_in_processes(plan, trials, jobs)
    finally:
        study = plan.study()
        with study.locked():
            write_overview(plan.out, study, plan.run)
    with study.locked():
        write_images(plan.out, study, plan.seed)
        write_record(plan.out, study, plan.run, record, plan.identity())
    states = [trial.state for trial in study.trials()]
    if ended and (len(states) < trials or not all(state.is_finished() for state in states)):
        raise BusiMonaiError(
            f"{ended}; what was finished is kept: run the same command to go on with the rest"
        )
    if ended:  # the other workers have taken its trial over
        logger.warning("%s; nothing is missing", ended)
    return plan.out


def _work_in_processes(plan: TuningPlan, total: int, jobs: int) -> str | None:
    """Run workers and return how one ended that did not end well."""
    spawn = multiprocessing.get_context("spawn")
    level = logging.getLogger("busi_monai.experiments").getEffectiveLevel()
    threads = share_of_threads(jobs)
    choose_precision("auto", "cpu")  # if a measurement decides, it decides for all processes
    devices = _devices(plan.device, jobs)
    workers = [
        spawn.Process(target=_worker, args=(plan, total, threads, device, level))
        for device in devices
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException:  # an interrupt of this process alone would leave them at work
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()
        raise
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if not codes:
        return None
    signal = f"was ended by signal {-codes[0]}" if codes[0] < 0 else "failed"
    return f"{len(codes)} of {jobs} worker processes did not end well; the first {signal}"


def _worker(plan: TuningPlan, total: int, threads: int, device: str, level: int) -> None:
    import torch

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("busi_monai.experiments").setLevel(level)
    for name in ("train", "validate", "monai.bundle.workflows"):
        logging.getLogger(name).disabled = True
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    torch.set_num_threads(threads)
    require_optuna()
    overrides = {**plan.overrides, "device_name": device}
    try:
        work(TuningPlan(**{**vars(plan), "overrides": overrides}), total)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (BusiMonaiError, OSError) as error:
        logger.error("%s", error)
        raise SystemExit(1) from None


def _devices(requested: str, jobs: int) -> list[str]:
    """Return a device for each worker: several CUDA devices are shared out."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested not in {"auto", "cuda"} or count < 2:
        return [requested] * jobs
    return [f"cuda:{index % count}" for index in range(jobs)]
