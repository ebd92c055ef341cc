"""What is measured of all images at once, by a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.scoring import ScoringMethod

from busi_monai.errors import ImageReadError
from busi_monai.files import write_json
from busi_monai.label_app.label_files import read_label_values
from busi_monai.label_app.served import ServedModel
from busi_monai.label_app.submitted_labels import read_submitted_labels
from busi_monai.label_app.uncertainty_cache import UncertaintyCache
from busi_monai.metrics import segmentation_scores

__all__ = ["AgreementScoring", "UncertaintyScoring"]


class UncertaintyScoring(ScoringMethod):
    """Measures every image, so that the next one is found at once."""

    def __init__(self, uncertainties: UncertaintyCache) -> None:
        super().__init__("How unsure the served model is of each image's class and outline")
        self.uncertainties = uncertainties

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Return how many images are measured now, and the mean score of the unlabelled."""
        images = {image: Path(datastore.get_image_uri(image)) for image in datastore.list_images()}
        known = self.uncertainties.fill(images, int(request.get("max_samples") or 0) or None)
        unlabelled = set(datastore.get_unlabeled_images())
        scores = [
            each["score"] for id, each in known.items() if "score" in each and id in unlabelled
        ]
        return {
            "measured": sum("score" in known.get(id, {}) for id in images),
            "unreadable": {id: known[id]["error"] for id in images if "error" in known.get(id, {})},
            "mean_score_unlabelled": float(np.mean(scores)) if scores else None,
        }


class AgreementScoring(ScoringMethod):
    """Compares what the served model predicts with what annotators submitted.

    Images that the model was trained on are among them: a look at the labels, no evidence.
    """

    def __init__(self, model: ServedModel, studies: Path, path: Path) -> None:
        super().__init__("How far the served model agrees with the submitted labels")
        self.model = model
        self.studies = studies
        self.path = path

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Return mean Dice of the labels with a lesion, and the part of classes that agree."""
        predictor = self.model.predictor()
        rows: dict[str, Any] = {}
        for label in read_submitted_labels(self.studies).labels:
            try:
                prediction = predictor.predict(label.image)
            except ImageReadError as error:
                rows[label.id] = {"error": str(error)}
                continue
            truth = read_label_values(label.label) > 0
            rows[label.id] = {
                "dice": float(segmentation_scores(prediction.mask > 0, truth)["dice"]),
                "lesion": bool(truth.any()),
                "class": label.class_name,
                "predicted_class": prediction.predicted_class,
            }
        write_json(self.path, {"served": self.model.identity(), "labels": rows})
        told = [row for row in rows.values() if "dice" in row]
        dice = [row["dice"] for row in told if row["lesion"]]
        agree = [row["class"] == row["predicted_class"] for row in told]
        return {
            "labels": len(told),
            "lesion_dice": float(np.mean(dice)) if dice else None,
            "accuracy": float(np.mean(agree)) if agree else None,
        }
