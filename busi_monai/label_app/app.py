"""The app that a MONAI Label server loads."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp

from busi_monai import __version__
from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.errors import InputError
from busi_monai.label_app.app_folder import read_app_settings
from busi_monai.label_app.datastore import KeepingDatastore
from busi_monai.label_app.infer import LABELS, FolderBatchTask, ProposalTask
from busi_monai.label_app.retraining import check_trainable
from busi_monai.label_app.served import ServedModel
from busi_monai.label_app.strategies import (
    AgreementScoring,
    Diverse,
    RandomImage,
    Reservations,
    Uncertain,
    UncertaintyScoring,
)
from busi_monai.label_app.train import SubmittedLabelsTask
from busi_monai.label_app.uncertainty_cache import UncertaintyCache

__all__ = ["MODEL", "BreastUltrasoundApp"]

logger = logging.getLogger(__name__)

MODEL = "breast_ultrasound"
"""Name of the model and its trainer in every request."""


class BreastUltrasoundApp(MONAILabelApp):
    """Labels a local folder of breast ultrasound images: lesion and class.

    MONAI Label finds it as a direct subclass of ``MONAILabelApp`` in the app folder's ``main.py``.

    Args:
        app_dir: the app's folder; models and retrainings are kept in it.
        studies: folder of the images.
        conf: what ``--conf`` says: ``bundle``, ``device``, ``uncertainty``, ``keep_minutes``,
            ``measure_at_once``.

    Raises:
        InputError: if ``studies`` is no folder, there is no such bundle, or a setting is wrong.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if studies.startswith(("http://", "https://")):
            raise InputError(f"{studies}: expected a folder; this app serves no DICOMweb archive")
        # background tasks look for it and fail without
        os.environ.setdefault("PYTHONPATH", "")
        self.folder = Path(app_dir)
        self.options = read_app_settings(self.folder, conf or {})
        self.model = ServedModel(
            self.folder / "model",
            find_bundle(self.options.get("bundle", DEFAULT_BUNDLE)),
            str(self.options.get("device", "auto")),
        )
        self.uncertainties = UncertaintyCache(
            self.model, self.folder / "model" / "uncertainties.json"
        )
        super().__init__(
            app_dir,
            studies,
            conf or {},
            name="busi_monai",
            description="Breast ultrasound: lesion and class. For research use only.",
            version=__version__,
            labels=LABELS,
        )
        self._auto_update_scoring = False  # it would start a process for every next image

    def init_datastore(self) -> KeepingDatastore:
        """Return the folder of images."""
        return KeepingDatastore(
            self.studies,
            self.model,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, ProposalTask]:
        """Return the one model."""
        asked = str(self.options.get("uncertainty", "true")).lower() == "true"
        return {MODEL: ProposalTask(self.model, uncertainty=asked)}

    def init_trainers(self) -> dict[str, SubmittedLabelsTask]:
        """Return its trainer, or none where what is served cannot be trained."""
        try:
            check_trainable(self.model.run)
        except InputError as error:
            logger.warning("no training: %s", error)
            return {}
        trainer = SubmittedLabelsTask(self.model, Path(self.studies), self.folder / "rounds")
        return {MODEL: trainer}

    def init_strategies(self) -> dict[str, Any]:
        """Return the ways to the next image, by name."""
        reservations = Reservations(self._number("keep_minutes", 30))
        limit = int(self._number("measure_at_once", 32))
        return {
            "uncertain": Uncertain(reservations, self.uncertainties, limit),
            "diverse": Diverse(reservations, self.uncertainties, limit),
            "random": RandomImage(reservations, self.uncertainties),
        }

    def init_scoring_methods(self) -> dict[str, Any]:
        """Return what can be measured, by name."""
        agreement = self.folder / "model" / "agreement.json"
        return {
            "uncertainty": UncertaintyScoring(self.uncertainties),
            "agreement": AgreementScoring(self.model, Path(self.studies), agreement),
        }

    def init_batch_infer(self) -> FolderBatchTask:
        """Return what predicts many images."""
        return FolderBatchTask()

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Predict, and remember what was proposed until a label is submitted."""
        result: dict[str, Any] = super().infer(request, datastore)
        image, params = request.get("image"), result.get("params") or {}
        if isinstance(image, str) and "served" in params:
            told = {"predicted_class": params.get("predicted_class"), "ts": int(time.time())}
            self._datastore.note_proposal(image, {**params["served"], **told})
        return result

    def _number(self, name: str, default: float) -> float:
        value = self.options.get(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if not number > 0:
            raise InputError(f"conf {name}: expected a number above 0, got {value!r}")
        return number
