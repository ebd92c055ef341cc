"""Training on what was submitted, as MONAI Label starts it: in a process of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from busi_monai.bundle import Bundle
from busi_monai.files import read_json
from busi_monai.label_app.retraining import RetrainingOptions, retrain
from busi_monai.label_app.served import ServedModel

__all__ = ["SubmittedLabelsTask"]

logger = logging.getLogger(__name__)


class SubmittedLabelsTask(TrainTask):
    """Trains a retraining and serves its run."""

    def __init__(self, model: ServedModel, studies: Path, retrainings: Path) -> None:
        super().__init__("Train on the submitted labels, from the weights that are served")
        self.model = model
        self.studies = studies
        self.retrainings = retrainings

    def config(self) -> dict[str, Any]:
        """Return the options with their defaults, which viewers show as a form."""
        return {**vars(RetrainingOptions()), "device": device_list()}

    def stats(self) -> dict[str, Any]:
        """Return what is served, and how it was trained."""
        record = Bundle(self.model.run).record_file
        known = read_json(record) if record.is_file() else {}
        kept = ("epochs", "best", "seed", "weights_sha256", "seconds")
        return {"run": str(self.model.run), **{key: known[key] for key in kept if key in known}}

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Return what the retraining came to."""
        device = request.get("device") or self.model.device
        if isinstance(device, list):  # a viewer that sends the form as it came
            device = device[0]
        device = device if device == "auto" else name_to_device(device)
        options = RetrainingOptions.from_request({**request, "device": device})
        done = retrain(self.model, self.studies, self.retrainings, options).as_dict()
        logger.info("served now: %s", done["run"])
        return done
