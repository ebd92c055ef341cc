"""A training run's folder, which is itself a bundle that any MONAI tool can run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from torch import nn

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import read_configuration, write_configuration
from busi_monai.bundle.model_card import training_sections
from busi_monai.bundle.training_images import check_same_images, write_training_images
from busi_monai.bundle.writing import write_bundle
from busi_monai.cases import CLASSES
from busi_monai.curation.label_hashes import (
    check_same_labels,
    read_label_hashes,
    write_label_hashes,
)
from busi_monai.devices import DeviceChoice, PrecisionChoice
from busi_monai.errors import InputError
from busi_monai.files import file_sha256, read_json, write_json
from busi_monai.networks import network_cost
from busi_monai.outputs import holds_nothing, output_folder
from busi_monai.records import RunRecord
from busi_monai.settings import InferenceSettings
from busi_monai.training.data import DatalistHashes
from busi_monai.training.history import draw_history
from busi_monai.training.initial_run import (
    InitialRun,
    check_same_initial_run,
    initial_run_record,
)
from busi_monai.training.resuming import CHANGEABLE, OTHER_MASKS, refuse_other_settings
from busi_monai.training.sessions import Sessions
from busi_monai.training.workflow import (
    resolved_section,
    running_workflow,
    unknown_keys,
    workflow_config,
)

__all__ = ["RunFolder"]

logger = logging.getLogger(__name__)

ENCODER_WEIGHTS = "encoder_weights.json"
"""File in a run whose encoder started from pretrained weights: where these came from."""


class RunFolder:
    """Makes the folder of a training run and keeps its records.

    Args:
        path: the run's folder.
        bundle_root: the bundle that is trained; its inference and evaluation configurations are
            taken over with the run's network.
        resume: continue a run that is there. Otherwise a non-empty folder is refused.

    Raises:
        InputError: if the run that is continued was started with other settings than those of the
            running configuration; see ``refuse_other_settings``.
    """

    def __init__(self, path: str | Path, bundle_root: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path).absolute()
        self.bundle_root = Path(bundle_root).absolute()
        self.resume = resume
        self.record = RunRecord()
        self._sessions = Sessions(self.path)
        self._before: dict[str, Any] = {}
        self._cost: dict[str, Any] = {}
        self._hashes: dict[str, list[str | None]] = {}
        if self.continued and running_workflow() is not None:
            self._check_settings()

    @property
    def continued(self) -> bool:
        """Whether there is a run, and it is to be continued."""
        return self.resume and self._training.is_file()

    @property
    def _training(self) -> Path:
        return Bundle(self.path).config_file("train")

    @property
    def models(self) -> Path:
        """Where the checkpoints go."""
        return self.path / "models"

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to continue from, and it is to be continued."""
        return self.resume and (self.models / "last.pt").is_file()

    @property
    def history(self) -> Path:
        """The table of the epochs."""
        return Bundle(self.path).history

    def start(
        self,
        settings: InferenceSettings,
        network: nn.Module,
        items: Sequence[Mapping[str, Any]] = (),
        *,
        initial: InitialRun | None = None,
        encoder_weights: Mapping[str, str] | None = None,
        datalists: DatalistHashes | None = None,
        device: DeviceChoice | None = None,
        precision: PrecisionChoice | None = None,
    ) -> None:
        """Write the run's configurations, before the first epoch: all of them or none.

        A run that is continued keeps them, but for what may change (see ``CHANGEABLE``).

        Args:
            settings: how the trained network is to be used.
            network: the network, for the input sizes that it takes, its parameters and its cost.
            items: what it is trained on; ``training_images.json`` keeps the images' hashes, by
                which a later evaluation knows what the network has seen.
            initial: the run whose weights it starts from; the images that these were trained on
                are kept as well.
            encoder_weights: where the encoder's pretrained weights came from, as
                ``load_encoder_weights`` returns it.
            datalists: hashes of the datalists and their masks, for ``run.json`` and
                ``label_hashes.json``, by which a later session knows the masks.
            device: what it is trained on, for the record of this session.
            precision: what it is trained in, likewise.

        Raises:
            InputError: if the folder is not empty and the run is not to be resumed, if the network
                does not take images of ``settings.image_size`` or would be told where the
                lesions are that it is to find, if a resumed run was trained on other images or
                masks or started from other weights, or if the running configuration has a key that
                the bundle does not have and nothing refers to: a misspelt override, which MONAI
                lets pass.
        """
        _check_size(settings.image_size, getattr(network, "stride", 1))
        _check_keys(self.bundle_root)
        self._cost = network_cost(network, settings.image_size)
        datalists = datalists or DatalistHashes()
        self._hashes = datalists.by_name
        if settings.lesion_crop and getattr(network, "has_segmentation", False):
            raise InputError(
                "lesion_crop crops around a mask that is known, which would tell a mask head where "
                "the lesion is; set seg_weight=0, or take the bundle breast_ultrasound_two_stage"
            )
        expected = getattr(getattr(network, "encoder", None), "expected_mean", None)
        if encoder_weights and expected is not None and settings.normalisation != "unit":
            raise InputError(
                f"encoder_weights: {encoder_weights['name']} expects images in [0, 1], which the "
                f"encoder normalises itself; set normalisation=unit, not {settings.normalisation}"
            )
        if self.continued:
            check_same_images(self.path, items)
            check_same_labels(self.path, datalists.labels, OTHER_MASKS)
            if not read_label_hashes(self.path):  # with which masks it was begun is not known
                self._hashes = {n: h for n, h in self._hashes.items() if "labels" not in n}
            check_same_initial_run(self.path, initial)
            self._before = read_configuration(self._training)
            training = {**workflow_config(), "resume": False}
            training["bundle_root"] = self._before["bundle_root"]  # which finds itself if moved
            self._begin_session(self.path, training, device, precision)
            write_configuration(self._training, training)
            logger.info("continuing the run in %s", self.path)
            return
        if not holds_nothing(self.path):
            kind = "no run to resume" if self.resume else "not empty"
            raise InputError(
                f"{self.path} is {kind}; choose another folder, or pass --resume (resume=true) to "
                "continue a run"
            )
        training = {**workflow_config(), "resume": False}
        with output_folder(self.path, "train", record=None) as partial:
            self._write_configs(partial, training, settings, items, encoder_weights)
            if encoder_weights is not None:
                write_json(partial / ENCODER_WEIGHTS, dict(encoder_weights))
            self._begin_session(partial, training, device, precision)
            write_label_hashes(partial, datalists.labels)
            if initial is None:
                write_training_images(partial, items)
            else:
                initial.write(partial)
                seen, complete = initial.images, initial.images_complete
                write_training_images(partial, items, before=seen, complete=complete)

    def _check_settings(self) -> None:
        hint = ""
        if self.bundle_root != self.path:
            hint = (
                f"The settings are those of {self.bundle_root}, not the run's own: resume it "
                f"without --model, or through MONAI with {self._training}. "
            )
        refuse_other_settings(
            self.path,
            read_configuration(self._training),
            workflow_config(),
            begun=self.resumable,
            hint=hint,
        )

    def _begin_session(
        self,
        folder: Path,
        training: Mapping[str, Any],
        device: DeviceChoice | None,
        precision: PrecisionChoice | None,
    ) -> None:
        present = self._told("command", "commit", "started")
        present["settings"] = {key: training[key] for key in CHANGEABLE if key in training}
        chosen = {"device": device, "precision": precision}
        present |= {name: vars(choice) for name, choice in chosen.items() if choice is not None}
        self._sessions.begin(folder, present, resumed=self.continued)

    def _told(self, *names: str) -> dict[str, Any]:
        record = self.record.as_dict()
        return {name: record[name] for name in names}

    def _write_configs(
        self,
        folder: Path,
        training: Mapping[str, Any],
        settings: InferenceSettings,
        items: Sequence[Mapping[str, Any]],
        encoder_weights: Mapping[str, str] | None,
    ) -> None:
        network = resolved_section(training, "network_def")
        segmentation = bool(network.get("segmentation", True))
        card = training_sections(
            items,
            settings,
            self._cost,
            self._hashes,
            classes=training.get("classes") or CLASSES,
            segmentation=segmentation,
            encoder_weights=encoder_weights,
        )
        written = write_bundle(
            folder,
            Bundle(self.bundle_root),
            network,
            settings,
            segmentation=segmentation,
            fold=training.get("fold"),
            card=card,
        )
        write_configuration(written.config_file("train"), training)

    def finish(
        self,
        trainer: Engine,
        *,
        seed: int,
        device: DeviceChoice,
        precision: PrecisionChoice,
        evaluator: Engine | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Draw the training's course and write ``run.json``.

        After a resume, ``seconds`` is that of all ``sessions``; the rest tells of the last one, or
        device and precision of the last one that trained an epoch. A finished run that has no epoch
        left to train stays as it was.
        """
        idle = self._sessions.idle
        if idle and self._is_recorded():
            logger.info("no epoch was left to train: %s stays as it was", self.path)
            write_configuration(self._training, self._before)
            self._sessions.close()
            return
        if self.history.is_file():
            draw_history(self.history, self.path / "history.png")
        model = self.models / "model.pt"
        chosen = {"device": vars(device), "precision": vars(precision)}
        sessions = self._sessions.all(
            **chosen,
            **self._told("command", "commit", "started", "seconds"),
            epochs=trainer.state.epoch,
        )
        trained = sessions[-2] if idle else sessions[-1]
        found: dict[str, Any] = {
            "epochs": trainer.state.epoch,
            "max_epochs": trainer.state.max_epochs,
            "seed": seed,
            **{name: trained.get(name, choice) for name, choice in chosen.items()},
            "network": self._cost,
            "weights_sha256": file_sha256(model) if model.is_file() else None,
            **self._hashes,
        }
        initial = initial_run_record(self.path)
        if initial is not None:
            found["initial_run"] = initial
        if (self.path / ENCODER_WEIGHTS).is_file():
            found["encoder_weights"] = read_json(self.path / ENCODER_WEIGHTS)
        if evaluator is not None:
            found["best"] = _best(evaluator)
        found["seconds"] = round(sum(session["seconds"] for session in sessions), 3)
        found["sessions"] = sessions
        self.record.write(self.path, {**found, **(details or {})})
        self._sessions.close()

    def _is_recorded(self) -> bool:
        record = Bundle(self.path).record_file
        return record.is_file() and read_json(record).get("sessions") == self._sessions.earlier


def _check_keys(bundle_root: Path) -> None:
    configs = [Bundle(bundle_root).config_file(name) for name in ("train", "multi_gpu_train")]
    unknown = unknown_keys([path for path in configs if path.is_file()])
    if unknown:
        raise InputError(
            f"unknown configuration {'key' if len(unknown) == 1 else 'keys'} "
            f"{', '.join(map(repr, unknown))}, to which nothing refers; the tunables are the "
            f"top-level keys of {configs[0]}"
        )


def _check_size(size: tuple[int, int], stride: int) -> None:
    if any(side % stride for side in size):
        fitting = [math.ceil(side / stride) * stride for side in size]
        raise InputError(
            f"image_size {list(size)} does not fit the network: height and width must be divisible "
            f"by {stride}; the next size up is {fitting}"
        )


def _best(evaluator: Engine) -> dict[str, Any]:
    """Return the best epoch and its score; ``None`` for what no validation has given."""
    state = evaluator.state
    known = state.best_metric_epoch > 0
    score = float(state.best_metric)
    return {
        "epoch": state.best_metric_epoch if known else None,
        state.key_metric_name: score if known and math.isfinite(score) else None,
    }
