"""Further formats of predictions: NIfTI masks, DICOM segmentations and reports."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.errors import InputError
from busi_monai.files import atomic_file
from busi_monai.inference.dicom_objects import (
    MAXIMUM_FRACTION,
    ModelIdentity,
    check_dicom_support,
    report_object,
    segmentation_object,
    source_reference,
    writing_objects,
)
from busi_monai.inference.inputs import file_id
from busi_monai.inference.prediction import Prediction
from busi_monai.io.image_decoders import is_nifti
from busi_monai.io.images import ImageFile

__all__ = ["PREDICTION_FORMATS", "FurtherFormats", "write_nifti_mask"]

PREDICTION_FORMATS = ("png", "nifti", "dicom-seg", "dicom-sr")
"""What ``predict --format`` knows. PNG masks are always written: the table belongs to them."""


def write_nifti_mask(
    path: str | Path,
    mask: NDArray[np.generic],
    spacing_mm: tuple[float, float] | None = None,
    *,
    loaded: Path | None = None,
) -> None:
    """Write an (H, W) mask as NIfTI of 0 and 1, in index order (first axis = columns), atomically.

    Args:
        path: file to make, ending in ``.nii.gz`` or ``.nii``.
        mask: non-zero on the lesion.
        spacing_mm: (row, column); without it the header holds 1 by 1 of unknown unit.
        loaded: a NIfTI file of that height and width, which decides axes, place and unit instead,
            so that viewers lay the mask over it. Nothing else of its header is taken over.
    """
    import nibabel

    values = (np.asarray(mask).T > 0).astype(np.uint8)
    if loaded is not None:
        image = _placed_like(nibabel.load(loaded), values)
    else:
        rows, columns = spacing_mm or (1.0, 1.0)
        image = nibabel.Nifti1Image(values, np.diag([columns, rows, 1.0, 1.0]))
        image.header.set_xyzt_units("unknown" if spacing_mm is None else "mm")
        if spacing_mm is None:
            image.set_sform(None, code=0)
    with atomic_file(path) as partial:
        nibabel.save(image, partial)


def _placed_like(loaded: Any, values: NDArray[np.uint8]) -> Any:
    """Return nibabel's image of (columns, rows) values that lie where an image lies."""
    import nibabel

    coloured = math.prod(loaded.shape) > values.size
    shape = loaded.shape[:-1] if coloured else loaded.shape
    image = nibabel.Nifti1Image(values.reshape(shape), None)
    image.header.set_zooms(loaded.header.get_zooms()[: len(shape)])
    for name in ("qform", "sform"):
        affine, code = getattr(loaded, f"get_{name}")(coded=True)
        if code > 0:
            getattr(image, f"set_{name}")(affine, int(code))
    image.header.set_xyzt_units(loaded.header.get_xyzt_units()[0])
    return image


@dataclass
class _OpenFile:
    """The images of one file seen so far, a single one or a loop's frames."""

    id: str
    loaded: ImageFile
    masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    summary: Prediction | None = None
    summary_frame: int | None = None


class FurtherFormats:
    """Writes what was asked for beside the PNG masks, file by file as the predictions come.

    Args:
        formats: some of ``PREDICTION_FORMATS``.
        model: told in DICOM objects.
        fractional: whether a DICOM segmentation holds probabilities instead of a mask.
        keep_ids: whether DICOM objects name patient and examination as their source does.

    Attributes:
        series: new series by a hash of the kind and of the series referred to.

    Raises:
        InputError: for an unknown format, or if what writes it is not installed.
    """

    def __init__(
        self,
        formats: Sequence[str],
        model: ModelIdentity,
        *,
        fractional: bool = False,
        keep_ids: bool = False,
    ) -> None:
        unknown = [name for name in formats if name not in PREDICTION_FORMATS]
        if unknown:
            raise InputError(
                f"unknown format {', '.join(unknown)}; expected some of "
                f"{', '.join(PREDICTION_FORMATS)}"
            )
        self._formats = frozenset(formats)
        self._model = model
        self._fractional = fractional
        self._keep_ids = keep_ids
        self._open: _OpenFile | None = None
        self.series: dict[str, str] = {}
        self._dicom = bool(self._formats & {"dicom-seg", "dicom-sr"})
        if self._dicom:
            check_dicom_support()

    @property
    def by_file(self) -> bool:
        """Whether something is written once for a file, when its last image has come."""
        return self._dicom

    def add(self, folder: Path, id: str, loaded: ImageFile, prediction: Prediction) -> list[str]:
        """Write what belongs to one prediction, or keep it until its file is complete.

        Args:
            folder: where the formats' own folders are made.
            id: name of the prediction's files.
            loaded: what was predicted; the frames of a file come one after another.
            prediction: what was predicted for it.

        Returns:
            What was written, relative to the folder.
        """
        made = []
        if "nifti" in self._formats:
            source = loaded.source
            made.append(f"nifti/{id}.nii.gz")
            write_nifti_mask(
                folder / made[0],
                prediction.mask,
                prediction.measured.mask_mm,
                loaded=source if isinstance(source, Path) and is_nifti(source, b"") else None,
            )
        if self._dicom:
            self._open = of_file = self._open or _OpenFile(file_id(id, loaded), loaded)
            if self._fractional:
                parts = np.round(prediction.lesion_probability * MAXIMUM_FRACTION)
                of_file.masks[loaded.frame or 0] = parts.astype(np.uint8)
            elif prediction.mask.any():
                of_file.masks[loaded.frame or 0] = prediction.mask
            if of_file.summary is None or prediction.rank > of_file.summary.rank:
                of_file.summary, of_file.summary_frame = prediction, loaded.frame
        return made

    def complete_file(self, folder: Path) -> list[str]:
        """Write the DICOM objects of the file whose last image has come, if there was any.

        Returns:
            What was written, relative to the folder.

        Raises:
            ImageReadError: if nothing can refer to that file.
        """
        of_file, self._open = self._open, None
        if of_file is None or of_file.summary is None:
            return []
        written = []
        with writing_objects(of_file.loaded.source):
            reference = source_reference(of_file.loaded.source, keep_ids=self._keep_ids)
            tracking_uid = _new_uid()
            if "dicom-seg" in self._formats and of_file.summary.has_mask:
                made = segmentation_object(
                    reference,
                    of_file.masks,
                    self._model,
                    of_loop=of_file.loaded.frame is not None,
                    fractional=self._fractional,
                    series_uid=self._series_uid(reference, "seg"),
                    tracking_uid=tracking_uid,
                )
                written.append(f"dicom/{of_file.id}_seg.dcm")
                _save(made, folder / written[-1])
            if "dicom-sr" in self._formats:
                made = report_object(
                    reference,
                    of_file.summary,
                    self._model,
                    frame=of_file.summary_frame,
                    series_uid=self._series_uid(reference, "sr"),
                    tracking_uid=tracking_uid,
                )
                written.append(f"dicom/{of_file.id}_sr.dcm")
                _save(made, folder / written[-1])
        return written

    def _series_uid(self, reference: Any, kind: str) -> str:
        """Return one new series for all objects of a kind that refer to the same series."""
        referred = f"{reference.SeriesInstanceUID} {kind}"
        return self.series.setdefault(hashlib.sha256(referred.encode()).hexdigest(), _new_uid())


def _new_uid() -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid())


def _save(made: Any, path: Path) -> None:
    with atomic_file(path) as partial:
        made.save_as(partial)
