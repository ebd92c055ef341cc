"""The run whose weights a training starts from, and what these weights were trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import find_bundle
from busi_monai.bundle.training_images import (
    knows_training_images,
    read_training_images,
    refuse_held_out_images,
)
from busi_monai.errors import InputError
from busi_monai.files import file_sha256, read_json, write_json
from busi_monai.networks.pretrained import load_initial_weights

__all__ = ["InitialRun", "check_same_initial_run", "find_initial_run", "initial_run_record"]

logger = logging.getLogger(__name__)

RECORD = "initial_run.json"
"""File in a run that started from another one: which, and its weights' hash."""


@dataclass(frozen=True)
class InitialRun:
    """A run, or bundle, whose weights another training starts from.

    Attributes:
        folder: the run.
        weights_sha256: hash of its ``models/model.pt``.
        images: hashes of the images that these weights were trained on, as far as they are known.
        images_complete: whether that is all of them.
    """

    folder: Path
    weights_sha256: str
    images: frozenset[str] = frozenset()
    images_complete: bool = False

    @property
    def weights(self) -> Path:
        """The file that is loaded."""
        return Bundle(self.folder).weights

    def refuse_held_out(
        self, dataset_dir: str | Path | Sequence[str | Path], *, fold: int | None = None
    ) -> None:
        """Refuse if its weights were trained on images that are validated or reported on now.

        Raises:
            InputError: as ``refuse_held_out_images``.
        """
        if not self.images_complete:
            logger.warning(
                "%s does not tell all images that it was trained on: those that are validated or "
                "reported on may be among them",
                self.folder,
            )
        refuse_held_out_images(
            self.images, dataset_dir, fold=fold, whose=f"the training images of {self.folder}"
        )

    def load(self, network: nn.Module, classes: Sequence[str]) -> None:
        """Load the weights into a network; see ``load_initial_weights``.

        Args:
            network: changed in place.
            classes: those that it tells; the class head of a run with others is left out.

        Raises:
            InputError: if the weights do not fit.
        """
        there = Bundle(self.folder).settings.classes
        load_initial_weights(network, self.weights, class_head=tuple(there) == tuple(classes))

    def as_dict(self) -> dict[str, Any]:
        """Return what a run's record keeps of it, as plain JSON values."""
        return {
            "run": str(self.folder),
            "weights_sha256": self.weights_sha256,
            "training_images": len(self.images) if self.images_complete else None,
        }

    def write(self, run: Path) -> None:
        """Write its record into the folder of the run that starts from it."""
        write_json(run / RECORD, self.as_dict())


def find_initial_run(
    run: str | Path | None,
    *,
    encoder_weights: str | Path | None = None,
    resumed: Path | None = None,
) -> InitialRun | None:
    """Return what is known of the run that training is to start from, ``None`` without one.

    Args:
        run: a run's or bundle's folder.
        encoder_weights: the other way to begin with weights, which excludes this one.
        resumed: the run that is continued, which has the weights already: the one that it was
            started from need not be there any more.

    Raises:
        InputError: if it is not there, has no weights, or ``encoder_weights`` is given too.
    """
    if not run:
        return None
    if encoder_weights:
        raise InputError(
            f"initial_run {run} and encoder_weights {encoder_weights} exclude each other: the "
            "initial run's weights have an encoder already; leave one out"
        )
    if resumed is not None and not Bundle(run).weights.is_file():
        record = initial_run_record(resumed)
        if record is not None and record["run"] == str(Path(run).absolute()):
            return _known_of(resumed, Path(record["run"]), record["weights_sha256"])
    folder = find_bundle(run)
    weights = Bundle(folder).weights
    if not weights.is_file():
        raise InputError(
            f"{weights} does not exist: an initial_run is a run, or bundle, with trained weights"
        )
    return _known_of(folder, folder, file_sha256(weights))


def initial_run_record(run: str | Path) -> dict[str, Any] | None:
    """Return what a run keeps of the one it started from, ``None`` if it started from none."""
    path = Path(run) / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, Mapping) or not {"run", "weights_sha256"} <= set(record):
        raise InputError(f"{path}: expected run and weights_sha256; begin a new run")
    return dict(record)


def check_same_initial_run(run: Path, initial: InitialRun | None) -> None:
    """Refuse to continue a run from other weights than those it started from.

    Raises:
        InputError: if they differ; the message names both.
    """
    before = initial_run_record(run)
    now = None if initial is None else initial.as_dict()
    if (before or {}).get("weights_sha256") != (now or {}).get("weights_sha256"):
        raise InputError(
            f"{run} was started from {_spoken(before)}, now from {_spoken(now)}: resume it with "
            "the same initial_run, or begin a new run"
        )


def _known_of(told_by: Path, folder: Path, weights_sha256: str) -> InitialRun:
    """Return a run with the images that its own folder, or that of the continued run, tells."""
    images = read_training_images(told_by) or frozenset()
    return InitialRun(folder, weights_sha256, images, knows_training_images(told_by))


def _spoken(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "no other run"
    return f"{record['run']} (weights {record['weights_sha256'][:12]})"
