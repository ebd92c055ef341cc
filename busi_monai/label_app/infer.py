"""Proposals for annotators: outline, class and how sure the model is, by the ``Predictor``."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import itk
import numpy as np
from fastapi import HTTPException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask, run_infer_task
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device
from numpy.typing import NDArray

from busi_monai.cases import NORMAL, NOT_FOR_CLINICAL_USE
from busi_monai.datasets import natural_key
from busi_monai.errors import BusiMonaiError, ImageReadError
from busi_monai.inference import Prediction
from busi_monai.io.images import ImageFile, read_image, write_png
from busi_monai.label_app.served import ServedModel

__all__ = ["LABELS", "FolderBatchTask", "ProposalTask", "polygons", "result_suffix", "write_label"]

logger = logging.getLogger(__name__)

LABELS = {"lesion": 1}
UNCERTAINTIES = ("score", "class_disagreement", "mask_disagreement")
RASTERS = (".png", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii.gz", ".nii", ".nrrd")


class ProposalTask(InferTask):
    """Predicts one image with the run that is served."""

    def __init__(self, model: ServedModel, *, uncertainty: bool = True) -> None:
        super().__init__(
            InferType.SEGMENTATION,
            LABELS,
            2,
            f"Lesion outline and class. {NOT_FOR_CLINICAL_USE}",
            {"device": device_list(), "uncertainty": uncertainty},
        )
        self.model = model
        self.uncertainty = uncertainty
        self._one_at_a_time = threading.Lock()

    def is_valid(self) -> bool:
        """Whether there are weights to predict with."""
        return self.model.weights.is_file()

    def get_path(self, validate: bool = True) -> str:
        """Return the path of the weights that are served."""
        return str(self.model.weights)

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Return the file of the mask, and all else that is predicted as plain JSON values.

        Raises:
            HTTPException: 400 for an image that cannot be read, 404 for one that is not there.
        """
        started = time.perf_counter()
        path = _image_path(request.get("image"))
        source = _frame_of(path, request.get("frame"))
        device = request.get("device")
        asked = str(request.get("uncertainty", self.uncertainty)).lower() == "true"
        try:
            with self._one_at_a_time:
                predictor = self.model.predictor(name_to_device(device) if device else None)
                loaded = read_image(source)
                prediction = predictor.predict(loaded)
                uncertainty = predictor.uncertainty(loaded) if asked else None
        except ImageReadError as error:
            raise HTTPException(400, str(error)) from error
        except BusiMonaiError as error:
            raise HTTPException(500, str(error)) from error
        params = {
            **prediction.as_dict(),
            "uncertainty": None
            if uncertainty is None
            else {name: getattr(uncertainty, name) for name in UNCERTAINTIES},
            "served": self.model.identity(),
            "label_names": LABELS,
            "annotations": [polygons(prediction.mask, _outline_name(prediction))],
            "latencies": {"total": round(time.perf_counter() - started, 3)},
        }
        if str(request.get("result_write_to_file", True)).lower() == "false":
            return None, params
        suffix = str(request.get("result_extension") or result_suffix(path))
        if suffix not in (*RASTERS, *VOLUMES):
            raise HTTPException(
                400, f"result_extension {suffix}: expected {', '.join((*RASTERS, *VOLUMES))}"
            )
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
            write_label(prediction.mask, Path(file.name), path)
        return file.name, params


class FolderBatchTask(BatchInferTask):
    """Goes on past images that fail, one after the other.

    The stock task divides them among as many workers as there are GPUs, and fails where there are
    none.
    """

    def __call__(
        self, request: dict[str, Any], datastore: Any, infer: Callable[..., Any]
    ) -> dict[str, Any]:
        """Save a label of the tag ``original`` for each image and return what was said of it."""
        images = sorted(self.get_images(request, datastore), key=natural_key)
        images = images[: int(request.get("max_batch_size") or 0) or None]
        tag = str(request.get("label_tag") or "original")
        results: dict[str, Any] = {}
        for number, image in enumerate(images, 1):
            task = {**request, "image": image, "save_label": True, "label_tag": tag}
            try:
                results[image] = run_infer_task(task, datastore, infer)
            except Exception as error:
                # one image must not stop the others
                reason = str(getattr(error, "detail", error))
                logger.warning("%s: %s", image, reason)
                results[image] = {"error": reason}
            logger.info("%d of %d", number, len(images))
        return results


def result_suffix(path: Path) -> str:
    """Return the format that a mask comes back in, in which no value is changed.

    Examples:
        >>> [result_suffix(Path(name)) for name in ("a.jpg", "a.PNG", "a.dcm", "a.nii", "a.nrrd")]
        ['.png', '.png', '.nii.gz', '.nii.gz', '.nrrd']
    """
    name = path.name.lower()
    if name.endswith(".nrrd"):
        return ".nrrd"
    raster = (*RASTERS, ".jpg", ".jpeg")
    return ".png" if name.endswith(raster) else ".nii.gz"


def write_label(mask: NDArray[np.uint8], file: Path, reference: Path) -> None:
    """Write a mask of 0 and 1; a volume gets its image's geometry, so that a viewer overlays it.

    Args:
        mask: (H, W).
        file: to be written; its suffix tells the format.
        reference: the image.
    """
    if file.name.endswith(".png"):
        write_png(file, mask)
        return
    if file.name.endswith(RASTERS):
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(mask)), str(file), True)
        return
    image = itk.image_from_array(np.ascontiguousarray(mask[None]))
    mode = itk.CommonEnums.IOFileMode_ReadMode
    reader = itk.ImageIOFactory.CreateImageIO(str(reference), mode)
    if reader is not None:
        reader.SetFileName(str(reference))
        reader.ReadImageInformation()
        axes = min(reader.GetNumberOfDimensions(), 3)
        spacing, origin, direction = np.ones(3), np.zeros(3), np.eye(3)
        for axis in range(axes):
            spacing[axis], origin[axis] = reader.GetSpacing(axis), reader.GetOrigin(axis)
            direction[:axes, axis] = list(reader.GetDirection(axis))[:axes]
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(itk.matrix_from_array(direction))
    itk.imwrite(image, str(file), True)


def polygons(mask: NDArray[np.uint8], label: str) -> dict[str, Any]:
    """Return the outer outlines as CVAT wants them: lists of [x, y], named after the class."""
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = [contour[:, 0].tolist() for contour in found if len(contour) >= 3]
    return {
        "annotation": {"elements": [{"label": label, "contours": contours}] if contours else []}
    }


def _outline_name(prediction: Prediction) -> str:
    """Return what an outline is called; it is drawn around no normal."""
    name = prediction.predicted_class
    return "lesion" if name in {None, NORMAL} else str(name)


def _image_path(source: Any) -> Path:
    if not isinstance(source, str) or not source:
        raise HTTPException(404, "there is no such image in the datastore")
    path = Path(source)
    if not path.is_dir():
        return path
    files = sorted(each for each in path.iterdir() if each.is_file())
    if len(files) != 1:
        raise HTTPException(400, f"{path.name}: expected one image, found {len(files)} files")
    return files[0]


def _frame_of(path: Path, frame: Any) -> Path | ImageFile:
    if frame is None:
        return path
    try:
        return ImageFile(path, int(frame) - 1)
    except ValueError:
        raise HTTPException(400, f"frame {frame!r}: expected a number from 1") from None
