"""The record of a search: one file that several processes share, and who runs which trial."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from busi_monai.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

    from busi_monai.experiments.tuning_space import Space

__all__ = ["KEEP", "PRUNERS", "STATES", "Claim", "TrialStudy", "best_trial", "require_optuna"]

KEEP = ("best", "all")
"""Whose weights are kept: the best trial's, or every trial's."""
PRUNERS = ("median", "hyperband", "none")
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}
"""What a trial's state is called, by Optuna's name."""

logger = logging.getLogger(__name__)

_NAME = "busi-monai tune"
_ATTEMPTS = 3


def require_optuna() -> None:
    """Refuse to go on without the packages of a search.

    Raises:
        InputError: if Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "a search needs packages that are not installed: pip install 'busi-monai[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class Claim:
    """A trial that this process runs, and no other one until the claim is released.

    Attributes:
        trial: Optuna's trial.
        parameters: the configuration's values by key.
        earlier: how often a process ended before it could finish the trial.
    """

    def __init__(
        self, trial: Trial, parameters: dict[str, Any], lock: BaseFileLock, earlier: int
    ) -> None:
        self.trial = trial
        self.parameters = parameters
        self.earlier = earlier
        self._lock = lock

    @property
    def number(self) -> int:
        """Number of the trial, from 0."""
        return int(self.trial.number)

    def release(self) -> None:
        """Let other processes have the trial."""
        self._lock.release()


class TrialStudy:
    """The trials of a search, shared by all processes that work on it.

    The record is one journal file. A process holds a lock on the trial that it runs; the system
    frees the lock when the process ends, however it ends, so that the trial can be claimed and
    continued by another. What is proposed depends on the seed, the trial's number and the results
    at that time alone, so that an interrupted search continues as if nothing had happened.

    Args:
        folder: the search's folder.
        space: what is varied.
        seed: of the proposals.
        pruner: one of ``PRUNERS``.
        warmup: epochs before a trial may be pruned.
    """

    def __init__(
        self, folder: Path, space: Space, *, seed: int = 0, pruner: str = "median", warmup: int = 5
    ) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.space = space
        self.seed = seed
        self._locks = folder / ".locks"
        self._locks.mkdir(parents=True, exist_ok=True)
        journal = folder / "study.journal"
        guard = _JournalLock(self._lock("journal"))
        with self.locked():
            guard.acquire()
            _drop_torn_line(journal)
            guard.release()
            self.study: Study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=guard)),
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
            )
        self.study.pruner = _pruner(pruner, warmup)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the other processes from claiming and clearing up meanwhile."""
        with self._lock("study"):
            yield

    def trials(self) -> list[FrozenTrial]:
        """Return all trials by number, as the record has them now."""
        return list(self.study.get_trials(deepcopy=False))

    def claim(self, total: int) -> Claim | None:
        """Return a trial to run: one whose process has ended, else a new one, else ``None``.

        Args:
            total: how many trials there are to be in all.
        """
        with self.locked():
            for found in self.trials():
                if found.state.name != "RUNNING":
                    continue
                claim = self._continue(found)
                if claim is not None:
                    return claim
            number = len(self.trials())
            if number >= total:
                return None
            lock = self._lock(f"{number:04d}")
            lock.acquire()
            self.study.sampler = self._sampler(number)
            trial = self.study.ask()
            return Claim(trial, self._propose(trial), lock, 0)

    def fail(self, claim: Claim, reason: str) -> None:
        """Give a trial up, and say why."""
        from optuna.trial import TrialState

        claim.trial.set_user_attr("reason", reason)
        self.study.tell(claim.trial, state=TrialState.FAIL)
        logger.warning("trial %d failed: %s", claim.number, reason)

    def prune(self, claim: Claim) -> None:
        """End a trial that has no prospect."""
        from optuna.trial import TrialState

        self.study.tell(claim.trial, state=TrialState.PRUNED)

    def _continue(self, found: FrozenTrial) -> Claim | None:
        from filelock import Timeout
        from optuna.trial import Trial

        lock = self._lock(f"{found.number:04d}")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        now = self.trials()[found.number]
        if now.state.name != "RUNNING":  # told between the two looks
            lock.release()
            return None
        epochs = max(now.intermediate_values, default=0)
        before = now.user_attrs.get("interrupted", {})
        earlier = 1 + (before.get("times", 0) if before.get("epochs") == epochs else 0)
        self.study.sampler = self._sampler(found.number)
        trial = Trial(self.study, now._trial_id)  # what was proposed stays as it is
        trial.set_user_attr("interrupted", {"times": earlier, "epochs": epochs})
        return Claim(trial, self._propose(trial), lock, earlier)

    def _propose(self, trial: Trial) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        for key, kind in self.space.distributions().items():
            if isinstance(kind, CategoricalDistribution):
                trial.suggest_categorical(key, kind.choices)
                continue
            suggest = (
                trial.suggest_int if isinstance(kind, IntDistribution) else trial.suggest_float
            )
            suggest(key, kind.low, kind.high, step=kind.step, log=kind.log)
        return self.space.decode(trial.params)

    def _sampler(self, number: int) -> Any:
        from optuna.samplers import TPESampler

        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():  # older releases call the argument experimental
            warnings.simplefilter("ignore")
            return TPESampler(seed=seed, constant_liar=True)

    def _lock(self, name: str) -> BaseFileLock:
        from filelock import FileLock

        return FileLock(self._locks / f"{name}.lock")

    def died_too_often(self, claim: Claim) -> bool:
        """Whether the trial's process ended again and again without one more epoch."""
        return claim.earlier >= _ATTEMPTS


def best_trial(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial of the highest score, the earliest of equal ones."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


class _JournalLock:
    """Optuna's lock on its journal, freed by the system when its process is killed."""

    def __init__(self, lock: BaseFileLock) -> None:
        self._lock = lock

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Free the lock."""
        self._lock.release()


def _drop_torn_line(journal: Path) -> None:
    """Remove the end of a line that a full disk or a crash cut off: it says nothing yet."""
    if not journal.is_file():
        return
    with journal.open("rb+") as stream:
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            logger.warning("%s: dropping a line that is cut off", journal)
            stream.truncate(whole)


def _pruner(name: str, warmup: int) -> Any:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if name == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
    if name == "hyperband":
        return HyperbandPruner(min_resource=max(1, warmup))
    if name == "none":
        return NopPruner()
    raise InputError(f"unknown pruner {name!r}; expected one of {', '.join(PRUNERS)}")
