"""Ignite handlers with which a bundle's evaluator writes a predictions folder."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import ensure_tuple

from busi_monai.cases import CLASSES
from busi_monai.files import file_sha256
from busi_monai.inference.prediction import prediction_of_item
from busi_monai.inference.writers import PredictionsFolder, Truth
from busi_monai.io.image_files import image_stem
from busi_monai.io.images import ImageFile
from busi_monai.outputs import output_folder
from busi_monai.records import RunRecord
from busi_monai.settings import InferenceSettings

__all__ = ["PredictionsSaver"]

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class PredictionsSaver:
    """Writes the predictions folder of an evaluator whose postprocessing is the bundle's.

    Rows are written as they come; the folder appears when the run is complete. See the bundles'
    ``inference.yaml`` and ``evaluate.yaml``.

    Args:
        output_dir: the folder to make.
        settings: names the classes.
        with_truth: whether the items carry ``class_label`` (index in ``label_classes``, -1 for
            unknown) and ``native_label`` ((1, H, W), all -1 for unknown); adds the true class and
            the scores to the table.
        overlays: whether images with outlines are written.
        overwrite: replace an earlier result of the same kind.
        reads: folders and files that are read, or lists of them, none of which ``output_dir`` may
            hold.
        weights: checkpoint whose hash ``run.json`` tells.
        failures: (input, reason) for images that were left out of the dataset; each gets a row.
        details: what else ``run.json`` tells: device, precision, datalist hash, fold.
        label_classes: class names that ``class_label`` counts through.
        finish: called with the folder when its table is complete and before it is renamed, for
            example a ``busi_monai.evaluation.MetricsReport``.
    """

    output_dir: str | Path
    settings: InferenceSettings
    _: KW_ONLY
    with_truth: bool = False
    overlays: bool = True
    overwrite: bool = False
    reads: Sequence[Any] = ()
    weights: str | Path | None = None
    failures: Sequence[tuple[str, str]] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    label_classes: Sequence[str] = CLASSES
    finish: Sequence[Callable[[Path], object]] = ()
    _folder: PredictionsFolder | None = field(default=None, init=False)
    _claim: ExitStack = field(default_factory=ExitStack, init=False)
    _finalizer: weakref.finalize | None = field(default=None, init=False)
    _clock: float = field(default=0.0, init=False)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._tick)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self, _engine: Engine) -> None:
        if self._finalizer is not None:
            self._finalizer()  # of an earlier run that did not end
        details = {
            **self.details,
            "classes": list(self.settings.classes),
            "temperature": self.settings.temperature,
            "class_thresholds": dict(self.settings.class_thresholds),
            "consistency": self.settings.consistency.as_record(),
        }
        if self.weights is not None and Path(self.weights).is_file():
            details["weights_sha256"] = file_sha256(self.weights)
        claim = ExitStack()
        # an engine tells its handlers of no Ctrl-C: the unfinished folder goes with this object
        self._finalizer = weakref.finalize(self, _abandon, claim)
        command = "evaluate" if self.with_truth else "predict"
        reads = [path for each in self.reads for path in ensure_tuple(each)]
        stage = claim.enter_context(
            output_folder(self.output_dir, command, reads=reads, overwrite=self.overwrite)
        )
        self._folder = claim.enter_context(
            PredictionsFolder(
                stage,
                self.settings.classes,
                with_truth=self.with_truth,
                overlays=self.overlays,
                record=RunRecord(details=details),
                finish=self.finish,
            )
        )
        self._claim = claim

    def _tick(self, _engine: Engine) -> None:
        self._clock = time.perf_counter()

    def _write(self, engine: Engine) -> None:
        if self._folder is None:
            return
        outputs, batch = engine.state.output, engine.state.batch
        seconds = (time.perf_counter() - self._clock) / max(len(outputs), 1)
        for given, output in zip(batch, outputs, strict=True):
            item = {**given, **output}
            meta = item["image"].meta
            frame = int(meta.get("frame", -1))
            source = Path(str(meta["filename_or_obj"]))
            image = ImageFile(source, None if frame < 0 else frame)
            prediction = prediction_of_item(item, self.settings.classes, seconds)
            truth = self._truth(given) if self.with_truth else None
            name = str(given.get("id") or image_stem(str(source)))
            self._folder.add(name, image, prediction, truth)

    def _complete(self, _engine: Engine) -> None:
        if self._folder is None:
            return
        folder, self._folder = self._folder, None
        if self._finalizer is not None:
            self._finalizer.detach()
        for given, reason in self.failures:
            folder.fail(image_stem(given), given, reason)
        self._claim.close()
        logger.info("wrote %d predictions to %s", folder.counts["predicted"], self.output_dir)

    def _truth(self, item: Mapping[str, Any]) -> Truth:
        label, mask = int(item.get("class_label", -1)), item.get("native_label")
        if mask is not None:
            mask = torch.as_tensor(mask).cpu().numpy()
            mask = None if (mask < 0).all() else mask.reshape(mask.shape[-2:]) > 0
        group = item.get("group")
        return Truth(
            self.label_classes[label] if label >= 0 else None,
            mask,
            None if group is None else str(group),
            item.get("birads"),
        )


def _abandon(claim: ExitStack) -> None:
    claim.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
