"""A DICOM Segmentation of the lesions in one ultrasound image or cine loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.inference.dicom_sources import ModelIdentity

__all__ = ["segmentation_object"]

MAXIMUM_FRACTION = 255
SERIES_NUMBER = 1001

_SINGLE_FRAME = "1.2.840.10008.5.1.4.1.1.6.1"  # Ultrasound Image Storage
_IN_STACK_POSITION = 0x00209057
_FRAME_CONTENT = 0x00209111


def segmentation_object(
    reference: Any,
    masks: Mapping[int, NDArray[np.uint8]],
    model: ModelIdentity,
    *,
    of_loop: bool = False,
    fractional: bool = False,
    series_uid: str | None = None,
    tracking_uid: str | None = None,
) -> Any:
    """Return a segmentation (PS3.3 A.51) of one segment, "Lesion".

    highdicom writes several frames only for images that have a place in the patient, which
    ultrasound loops have not: of a loop, the first frame is written by highdicom, the others are
    added with the same attributes and their own reference.

    Args:
        reference: of the image, as from ``source_reference``.
        masks: (H, W) by number of the frame, counted from 0; 0 and 1, or 0 to 255 as parts of
            ``MAXIMUM_FRACTION`` if ``fractional``. Frames that lack one have no lesion.
        model: which model made it.
        of_loop: whether the image is a loop, each of whose frames is referred to by its number.
        fractional: whether probabilities of the lesion are stored instead of a mask.
        series_uid: series that it belongs to; by default a new one.
        tracking_uid: of the lesion, the same in a report of it; by default a new one.

    Returns:
        A ``pydicom`` dataset that can be saved. Frames without lesion are left out, but for one
        where none has any.
    """
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    first = min((n for n, mask in masks.items() if mask.any()), default=0)
    size = (int(reference.Rows), int(reference.Columns))
    shown = masks.get(first, np.zeros(size, dtype=np.uint8))
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="busi_monai",
        family=codes.DCM.ArtificialIntelligence,
        version=model.version,
        parameters={"bundle": model.name, "weights_sha256": model.weights_sha256},
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Breast],
        tracking_uid=tracking_uid or generate_uid(),
        tracking_id="Lesion",
    )
    made = highdicom.seg.Segmentation(
        source_images=[_as_still(reference)],
        pixel_array=shown / np.float32(MAXIMUM_FRACTION) if fractional else shown,
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=[segment],
        series_instance_uid=series_uid or generate_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="busi_monai",
        manufacturer_model_name=model.name[:64],
        software_versions=model.version,
        device_serial_number=model.weights_sha256[:16],
        max_fractional_value=MAXIMUM_FRACTION,
        content_label="LESION",
        content_description="Lesions predicted; for research use only",
        series_description="Predicted lesions, for research use only",
        omit_empty_frames=False,
    )
    made.PatientOrientation = ""  # type 2C, unknown
    _refer_to(made, reference.SOPClassUID)
    if of_loop:
        _add_frames(made, first, {n: mask for n, mask in masks.items() if mask.any()}, fractional)
    return made


def _as_still(reference: Any) -> Any:
    """Return the header as that of a single frame.

    It states no spacing: highdicom would write it, and then not read the file without a slice
    thickness, which ultrasound has not and the standard forbids to leave empty.
    """
    still = copy.deepcopy(reference)
    still.SOPClassUID = _SINGLE_FRAME
    return still


def _refer_to(made: Any, sop_class: str) -> None:
    """Name the image's own class wherever the object refers to it."""
    for element in made.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = sop_class


def _add_frames(
    made: Any, first: int, masks: Mapping[int, NDArray[np.uint8]], fractional: bool
) -> None:
    """Bring a segmentation of one frame of a loop to all the frames that have a lesion."""
    from pydicom.dataset import Dataset

    index = Dataset()
    index.DimensionOrganizationUID = made.DimensionIndexSequence[0].DimensionOrganizationUID
    index.DimensionIndexPointer = _IN_STACK_POSITION
    index.FunctionalGroupPointer = _FRAME_CONTENT
    index.DimensionDescriptionLabel = "Frame of the loop"
    made.DimensionIndexSequence.append(index)
    (template,) = made.PerFrameFunctionalGroupsSequence
    numbers = sorted(masks) or [first]
    groups = []
    for number in numbers:
        group = copy.deepcopy(template)
        content = group.FrameContentSequence[0]
        content.StackID = "1"
        content.InStackPositionNumber = number + 1
        content.DimensionIndexValues = [1, number + 1]
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = number + 1
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    made.NumberOfFrames = len(groups)
    if masks:
        made.PixelData = _packed(np.stack([masks[number] for number in numbers]), fractional)


def _packed(masks: NDArray[np.uint8], fractional: bool) -> bytes:
    content = masks.tobytes() if fractional else np.packbits(masks, bitorder="little").tobytes()
    return content + b"\0" * (len(content) % 2)
