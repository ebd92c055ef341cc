"""Which image an annotator gets next, and what is measured of all of them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from busi_monai.datasets import natural_key
from busi_monai.errors import ImageReadError
from busi_monai.files import write_json
from busi_monai.label_app.label_files import read_label_values
from busi_monai.label_app.served import ServedModel
from busi_monai.label_app.submitted_labels import read_submitted_labels
from busi_monai.label_app.uncertainty_cache import UncertaintyCache, farthest_from
from busi_monai.metrics import segmentation_scores

__all__ = [
    "AgreementScoring",
    "Diverse",
    "RandomImage",
    "Reservations",
    "Uncertain",
    "UncertaintyScoring",
]


class Reservations:
    """Who was handed which image, so that none is handed to two annotators at once."""

    def __init__(self, minutes: float = 30) -> None:
        self.seconds = 60 * minutes
        self.lock = threading.Lock()
        self._last: dict[str, tuple[float, str]] = {}

    def free(self, images: Sequence[str], client: str, datastore: Any) -> list[str]:
        """Return the images that an annotator may be handed.

        Those that nobody has; if there are none, the one that the annotator was handed longest ago
        and has not submitted. One without a name is a new annotator, who never gets an image twice.
        """
        held: dict[str, tuple[float, str]] = {}
        for image in images:
            since, whose = self._holder(image, datastore)
            if time.time() - since < self.seconds:
                held[image] = since, whose
        free = [image for image in images if image not in held]
        own = [image for image, (_, whose) in held.items() if client and whose == client]
        return free or sorted(own, key=lambda image: held[image][0])[:1]

    def hand(self, image: str, client: str) -> None:
        """Keep an image for an annotator."""
        self._last[image] = time.time(), client

    def _holder(self, image: str, datastore: Any) -> tuple[float, str]:
        """Return when an image was last handed out and to whom, also by an earlier server."""
        told = datastore.get_image_info(image).get("strategy", {})
        kept = [
            (float(entry.get("ts", 0)), str(entry.get("client_id") or ""))
            for entry in told.values()
            if isinstance(entry, dict)
        ]
        return max([*kept, self._last.get(image, (0.0, ""))])


class _NextImage(Strategy):
    """What all strategies do alike: an unlabelled, readable image that nobody else holds.

    Args:
        reservations: who holds which image.
        uncertainties: how unsure the model is, and where images lie.
        limit: images measured for one request at most.
    """

    about = ""

    def __init__(
        self, reservations: Reservations, uncertainties: UncertaintyCache, limit: int = 32
    ) -> None:
        super().__init__(self.about)
        self.reservations = reservations
        self.uncertainties = uncertainties
        self.limit = limit

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Return the next image's ``id`` with its ``weight``, ``None`` if there is none."""
        client = str(request.get("client_id") or "")
        with self.reservations.lock:
            known = self.uncertainties.known()
            unlabelled = sorted(datastore.get_unlabeled_images(), key=natural_key)
            readable = [image for image in unlabelled if "error" not in known.get(image, {})]
            free = self.reservations.free(readable, client, datastore)
            chosen = self.choose(free, datastore) if free else None
            if chosen is not None:
                self.reservations.hand(chosen["id"], client)
            return chosen

    def choose(self, free: list[str], datastore: Any) -> dict[str, Any] | None:
        """Return one of the images."""
        raise NotImplementedError


class RandomImage(_NextImage):
    """Any image, each as likely as the others."""

    about = "Any unlabelled image"

    def choose(self, free: list[str], datastore: Any) -> dict[str, Any] | None:
        """Return one of the images."""
        return {"id": random.choice(free), "weight": 1 / len(free)}


class Uncertain(_NextImage):
    """The image that the served model is least sure of."""

    about = "The unlabelled image that the served model is least sure of"

    def choose(self, free: list[str], datastore: Any) -> dict[str, Any] | None:
        """Return the one of the highest score."""
        known = self.uncertainties.fill(_paths(free, datastore), self.limit)
        usable = [image for image in free if "error" not in known.get(image, {})]
        if not usable:
            return None
        best = max(usable, key=lambda image: known.get(image, {}).get("score", -1.0))
        told = {key: value for key, value in known.get(best, {}).items() if key != "descriptor"}
        return {"id": best, "weight": told.get("score"), "uncertainty": told}


class Diverse(_NextImage):
    """The image that is least like those labelled or handed out; see ``farthest_from``."""

    about = "The unlabelled image that is least like those labelled or handed out"

    def choose(self, free: list[str], datastore: Any) -> dict[str, Any] | None:
        """Return the one farthest from all others that have had their turn."""
        taken = [image for image in datastore.list_images() if image not in set(free)]
        known = self.uncertainties.fill(_paths([*free, *taken], datastore), self.limit)
        described = {id: each["descriptor"] for id, each in known.items() if "descriptor" in each}
        found = farthest_from(
            {image: described[image] for image in free if image in described},
            [described[image] for image in taken if image in described],
        )
        if found is None:
            unknown = [image for image in free if image not in known]
            return {"id": unknown[0], "weight": None} if unknown else None
        return {"id": found[0], "weight": found[1]}


def _paths(images: Sequence[str], datastore: Any) -> dict[str, Path]:
    return {image: Path(datastore.get_image_uri(image)) for image in images}


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
