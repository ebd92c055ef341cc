"""What the served model makes of each image: how unsure it is, and where it lies among others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from busi_monai.errors import BusiMonaiError, InputError
from busi_monai.files import read_json, write_json
from busi_monai.io.images import read_image
from busi_monai.label_app.served import ServedModel

if TYPE_CHECKING:
    from busi_monai.inference import Prediction

__all__ = ["UncertaintyCache", "describe", "farthest_from"]

logger = logging.getLogger(__name__)

GRID = 8
"""Rows and columns of the coarse maps that describe an image."""


class UncertaintyCache:
    """Kept in ``uncertainties.json`` beside the model, and begun anew when another one is served.

    They are not written into the datastore's file: a process that rewrites that one can undo what
    an annotator submits meanwhile.
    """

    def __init__(self, model: ServedModel, path: Path) -> None:
        self.model = model
        self.path = path
        self._lock = threading.Lock()

    def known(self) -> dict[str, dict[str, Any]]:
        """Return the uncertainties by the served model, by image id.

        Each holds ``score`` in [0, 1], ``class_disagreement``, ``mask_disagreement``,
        ``descriptor`` and the image's ``modified`` time; or ``error`` instead.
        """
        if not self.path.is_file():
            return {}
        try:
            kept = read_json(self.path)
        except InputError:
            logger.warning("%s is damaged and begun anew", self.path)
            return {}
        images = kept.get("images") if kept.get("model") == self.model.version() else None
        return images if isinstance(images, dict) else {}

    def fill(self, image_paths: Mapping[str, Path], limit: int | None = None) -> dict[str, Any]:
        """Measure the images that are not known yet, and return all uncertainties."""
        with self._lock:
            known = self.known()
            wanted = [
                id
                for id, path in image_paths.items()
                if known.get(id, {}).get("modified") != _modified(path)
            ]
            found = {id: self._measure(image_paths[id]) for id in wanted[:limit]}
            if found:
                # another process may have written meanwhile
                known = {**self.known(), **found}
                write_json(self.path, {"model": self.model.version(), "images": known})
            return known

    def _measure(self, path: Path) -> dict[str, Any]:
        modified = _modified(path)
        try:
            predictor, image = self.model.predictor(), read_image(path)
            uncertainty = predictor.uncertainty(image)
            described = describe(predictor.predict(image), image.pixels)
        except BusiMonaiError as error:
            return {"error": str(error), "modified": modified}
        return {
            "score": round(float(uncertainty.score), 6),
            "class_disagreement": uncertainty.class_disagreement,
            "mask_disagreement": uncertainty.mask_disagreement,
            "descriptor": [round(float(value), 4) for value in described],
            "modified": modified,
        }


def describe(prediction: Prediction, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return where an image lies among others, as the model sees it.

    Three parts of about the same weight, the same for every network: the class probabilities, the
    lesion's probability averaged on a coarse grid, and the grey levels on the same grid.

    Args:
        prediction: for the image.
        pixels: (H, W) in [0, 1].

    Returns:
        (classes + 2 × 64,) values; each part's Euclidean length is at most 1.
    """
    lesion = _coarse(prediction.lesion_probability)
    grey = _coarse(pixels)
    return np.concatenate(
        [np.array(list(prediction.probabilities.values()), dtype=float), lesion / GRID, grey / GRID]
    )


def farthest_from(
    candidates: Mapping[str, Sequence[float]], chosen: Sequence[Sequence[float]]
) -> tuple[str, float] | None:
    """Return the candidate that is farthest from everything chosen so far, and how far.

    One step of farthest-point sampling (Gonzalez, Theor. Comput. Sci. 1985; as k-centre greedy in
    Sener and Savarese, ICLR 2018). With nothing chosen yet, the most typical candidate is taken:
    that nearest to the mean of all.

    Args:
        candidates: descriptor by id.
        chosen: descriptors of the same length.

    Examples:
        >>> farthest_from({"a": [0, 0], "b": [3, 4]}, [[0, 0]])
        ('b', 5.0)
        >>> farthest_from({"a": [0, 0], "b": [1, 0], "c": [9, 0]}, [])
        ('b', 2.3333333333333335)
    """
    if not candidates:
        return None
    ids = list(candidates)
    points = np.array([candidates[id] for id in ids], dtype=float)
    if len(chosen):
        distances = cdist(points, np.array(chosen, dtype=float)).min(axis=1)
        index = int(distances.argmax())
    else:
        distances = np.linalg.norm(points - points.mean(axis=0), axis=1)
        index = int(distances.argmin())
    return ids[index], float(distances[index])


def _coarse(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the (H, W) values averaged on the grid, as one row."""
    import torch

    pixels = torch.from_numpy(np.array(values, dtype=np.float64))
    cells = torch.nn.functional.adaptive_avg_pool2d(pixels[None], GRID)
    return np.asarray(cells.ravel())


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0
