"""A training run's folder, which is itself a bundle that any MONAI tool can run."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser
from torch import nn

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import (
    imports_of,
    read_configuration,
    write_configuration,
)
from busi_monai.bundle.model_card import training_sections
from busi_monai.bundle.training_images import check_same_images, write_training_images
from busi_monai.bundle.workflow import laid_configuration
from busi_monai.bundle.writing import write_bundle
from busi_monai.cases import CLASSES
from busi_monai.curation.label_hashes import (
    check_same_labels,
    read_label_hashes,
    write_label_hashes,
)
from busi_monai.devices import DeviceChoice, PrecisionChoice
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.networks import load_encoder_weights, network_cost
from busi_monai.outputs import holds_nothing, output_folder
from busi_monai.records import RunRecord
from busi_monai.settings import InferenceSettings
from busi_monai.training.data import datalist_hashes
from busi_monai.training.distributed import (
    done_by_first,
    gathered,
    is_first_process,
    process_count,
)
from busi_monai.training.initial_run import (
    InitialRun,
    check_same_initial_run,
    find_initial_run,
    initial_run_record,
)
from busi_monai.training.resuming import (
    CHANGEABLE,
    OTHER_MASKS,
    Sessions,
    refuse_other_settings,
)
from busi_monai.training.scores import draw_history

__all__ = ["RunFolder", "resolved_section", "unknown_keys"]

logger = logging.getLogger(__name__)

SEVERAL = "multi_gpu_train"
"""Configuration that is laid over ``train`` for several processes."""

ENCODER_WEIGHTS = "encoder_weights.json"
"""File in a run whose encoder started from pretrained weights: where these came from."""

Folders = str | Path | Sequence[str | Path]


class RunFolder:
    """Makes the folder of a training run and keeps its records.

    Of several processes, the first one writes.

    Args:
        path: the run's folder.
        bundle_root: the bundle that is trained; its inference and evaluation configurations are
            taken over with the run's network.
        configuration: what is run, overlays and overrides laid on, references unresolved.
        resume: continue a run that is there. Otherwise a non-empty folder is refused.

    Raises:
        InputError: if the run that is continued was started with other settings than those of
            ``configuration``; see ``refuse_other_settings``.
    """

    def __init__(
        self,
        path: str | Path,
        bundle_root: str | Path,
        configuration: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self.path = Path(path).absolute()
        self.bundle_root = Path(bundle_root).absolute()
        self.configuration = {**(configuration or {}), "resume": False}
        self.record = RunRecord()
        bundle = Bundle(self.path)
        self.models, self.history = bundle.weights.parent, bundle.history
        self._training = bundle.config_file("train")
        self.resume = resume
        self.continued = resume and self._training.is_file()
        self.resumable = resume and bundle.checkpoint.is_file()
        self._sessions = Sessions(self.path)
        self._before: dict[str, Any] = {}
        self._known: dict[str, Any] = {}
        self._hashes: dict[str, list[str | None]] = {}
        if self.continued:
            self._before = read_configuration(self._training)
            if configuration:
                self._check_settings()

    def start(
        self,
        settings: InferenceSettings,
        network: nn.Module,
        items: Sequence[Mapping[str, Any]] = (),
        *,
        dataset_dir: Folders = (),
        extra_dataset_dir: Folders | None = None,
        fold: int | None = None,
        encoder_weights: str | Path | None = None,
        initial_run: str | Path | None = None,
        device: DeviceChoice | None = None,
        precision: PrecisionChoice | None = None,
    ) -> None:
        """Load what training starts from, and write the run's configurations, all or none.

        A run that is continued keeps them, but for what may change (see ``CHANGEABLE``).

        Args:
            settings: how the trained network is to be used.
            network: the network, which earlier weights are loaded into.
            items: what it is trained on; ``training_images.json`` keeps the images' hashes, by
                which a later evaluation knows what the network has seen.
            dataset_dir: the prepared datasets, whose hashes the records keep.
            extra_dataset_dir: further ones that are trained on alone.
            fold: the reported fold.
            encoder_weights: as for ``load_encoder_weights``.
            initial_run: the run, or bundle, whose weights training starts from.
            device: what it is trained on, for the record of this session.
            precision: what it is trained in, likewise.

        Raises:
            InputError: if the folder is not empty and the run is not to be resumed, if the network
                does not take images of ``settings.image_size`` or would be told where the
                lesions are that it is to find, if earlier weights do not fit or have seen what is
                reported on, if a resumed run was trained on other images or masks or started from
                other weights, or if the configuration has a key that the bundle does not have and
                nothing refers to: a misspelt override, which MONAI lets pass.
        """
        if len(set(gathered(self.resumable))) > 1:
            raise InputError(
                f"{self.path} is a run to resume for some processes and not for others; choose a "
                "folder that all machines share"
            )
        _check_size(settings.image_size, getattr(network, "stride", 1))
        self._check_keys()
        if settings.lesion_crop and getattr(network, "has_segmentation", False):
            raise InputError(
                "lesion_crop crops around a mask that is known, which would tell a mask head where "
                "the lesion is; set seg_weight=0, or take the bundle breast_ultrasound_two_stage"
            )
        resumed = self.path if self.resumable else None
        initial = find_initial_run(initial_run, encoder_weights=encoder_weights, resumed=resumed)
        if initial is not None:
            initial.refuse_held_out(dataset_dir, fold=fold)
        source = None
        if not self.resumable and initial is not None:
            initial.load(network, settings.classes)
        elif not self.resumable and encoder_weights:
            source = load_encoder_weights(network, encoder_weights)
            _check_normalisation(network, source["name"], settings.normalisation)

        def write() -> None:
            datalists = datalist_hashes(dataset_dir, extra_dataset_dir)
            self._hashes, labels = datalists.by_name, datalists.labels
            chosen = {"device": device, "precision": precision}
            self._known = {name: vars(each) for name, each in chosen.items() if each is not None}
            if process_count() > 1:
                self._known["processes"] = process_count()
            self._known["network"] = network_cost(network, settings.image_size)
            if self.continued:
                self._go_on(items, labels, initial)
            else:
                self._begin(settings, items, labels, initial, source)

        done_by_first(write)

    def _go_on(
        self,
        items: Sequence[Mapping[str, Any]],
        labels: Sequence[Mapping[str, Any]],
        initial: InitialRun | None,
    ) -> None:
        check_same_images(self.path, items)
        check_same_labels(self.path, labels, OTHER_MASKS)
        if not read_label_hashes(self.path):  # with which masks it was begun is not known
            self._hashes = {n: h for n, h in self._hashes.items() if "labels" not in n}
        check_same_initial_run(self.path, initial)
        # the root was written to find itself if moved
        training = {**self.configuration, "bundle_root": self._before["bundle_root"]}
        self._begin_session(self.path)
        write_configuration(self._training, training)
        logger.info("continuing the run in %s", self.path)

    def _begin(
        self,
        settings: InferenceSettings,
        items: Sequence[Mapping[str, Any]],
        labels: Sequence[Mapping[str, Any]],
        initial: InitialRun | None,
        encoder_weights: Mapping[str, str] | None,
    ) -> None:
        if not holds_nothing(self.path):
            kind = "no run to resume" if self.resume else "not empty"
            raise InputError(
                f"{self.path} is {kind}; choose another folder, or pass --resume (resume=true) to "
                "continue a run"
            )
        with output_folder(self.path, "train", record=None) as partial:
            self._write_configs(partial, settings, items, encoder_weights)
            if encoder_weights is not None:
                write_json(partial / ENCODER_WEIGHTS, dict(encoder_weights))
            self._begin_session(partial)
            write_label_hashes(partial, labels)
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
        # how many processes train may change: both are compared as if for several
        several = Bundle(self.bundle_root).config_file(SEVERAL)
        layers = [read_configuration(several)] if several.is_file() else []
        before, now = (
            laid_configuration([each, *layers]) for each in (self._before, self.configuration)
        )
        refuse_other_settings(self.path, before, now, begun=self.resumable, hint=hint)

    def _check_keys(self) -> None:
        configs = [Bundle(self.bundle_root).config_file(name) for name in ("train", SEVERAL)]
        unknown = unknown_keys(self.configuration, [path for path in configs if path.is_file()])
        if unknown:
            raise InputError(
                f"unknown configuration {'key' if len(unknown) == 1 else 'keys'} "
                f"{', '.join(map(repr, unknown))}, to which nothing refers; the tunables are the "
                f"top-level keys of {configs[0]}"
            )

    def _begin_session(self, folder: Path) -> None:
        present = {**self._told("command", "commit", "started"), **self._choices()}
        kept = {key: self.configuration[key] for key in CHANGEABLE if key in self.configuration}
        self._sessions.begin(folder, {**present, "settings": kept}, resumed=self.continued)

    def _told(self, *names: str) -> dict[str, Any]:
        record = self.record.as_dict()
        return {name: record[name] for name in names}

    def _choices(self) -> dict[str, Any]:
        names = ("device", "precision", "processes")
        return {name: self._known[name] for name in names if name in self._known}

    def _write_configs(
        self,
        folder: Path,
        settings: InferenceSettings,
        items: Sequence[Mapping[str, Any]],
        encoder_weights: Mapping[str, str] | None,
    ) -> None:
        training = self.configuration
        network = resolved_section(training, "network_def")
        segmentation = bool(network.get("segmentation", True))
        card = training_sections(
            items,
            settings,
            self._known["network"],
            self._hashes,
            classes=training.get("classes") or CLASSES,
            segmentation=segmentation,
            encoder_weights=encoder_weights,
        )
        shipped = imports_of(Bundle.open().config("train"))
        written = write_bundle(
            folder,
            Bundle(self.bundle_root),
            network,
            settings,
            segmentation=segmentation,
            fold=training.get("fold"),
            card=card,
            imports=[each for each in imports_of(training) if each not in shipped],
        )
        write_configuration(written.config_file("train"), training)
        several = Bundle(self.bundle_root).config_file(SEVERAL)
        if several.is_file():
            shutil.copyfile(several, written.config_file(SEVERAL))

    def finish(self, trainer: Engine, evaluator: Engine | None = None) -> None:
        """Draw the training's course and write ``run.json``.

        After a resume, ``seconds`` is that of all ``sessions``; the rest tells of the last one, or
        device and precision of the last one that trained an epoch. A finished run that has no epoch
        left to train stays as it was.
        """
        if not is_first_process():
            return
        bundle, epochs = Bundle(self.path), trainer.state.epoch
        idle = self._sessions.idle
        if idle and (bundle.record or {}).get("sessions") == self._sessions.earlier:
            logger.info("no epoch was left to train: %s stays as it was", self.path)
            write_configuration(self._training, self._before)
            self._sessions.close()
            return
        if self.history.is_file():
            draw_history(self.history, self.path / "history.png")
        told = self._told("command", "commit", "started", "seconds")
        sessions = self._sessions.all(**self._choices(), **told, epochs=epochs)
        trained = sessions[-2] if idle else sessions[-1]
        found: dict[str, Any] = {
            "epochs": epochs,
            "max_epochs": trainer.state.max_epochs,
            "seed": self.configuration.get("seed"),
            **{name: trained.get(name, choice) for name, choice in self._choices().items()},
            "network": self._known.get("network"),
            "weights_sha256": bundle.weights_sha256 if bundle.weights.is_file() else None,
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
        self.record.write(self.path, {**found, "sessions": sessions})
        self._sessions.close()


def unknown_keys(config: Mapping[str, Any], files: Sequence[Path]) -> list[str]:
    """Return the top-level keys of a configuration that no file has and nothing refers to.

    MONAI adds a misspelt override as a new key, which then does nothing. Without files, there is
    nothing to compare: no key is unknown.
    """
    if not files:
        return []
    known = {key.partition("#")[0] for path in files for key in read_configuration(path)}
    text = yaml.safe_dump(dict(config))
    return [
        key
        for key in config
        if key not in known and not re.search(rf"[@%]{re.escape(key)}(?!\w)", text)
    ]


def resolved_section(config: Mapping[str, Any], name: str) -> Any:
    """Return a section of a configuration with its references replaced by plain values.

    A parser of its own: the workflow's would keep the uninstantiated section as the resolved one.
    """
    parser = ConfigParser(deepcopy(dict(config)))
    return parser.get_parsed_content(name, instantiate=False).get_config()


def _check_normalisation(network: nn.Module, weights: str, normalisation: str) -> None:
    expected = getattr(getattr(network, "encoder", None), "expected_mean", None)
    if expected is not None and normalisation != "unit":
        raise InputError(
            f"encoder_weights: {weights} expects images in [0, 1], which the encoder normalises "
            f"itself; set normalisation=unit, not {normalisation}"
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
