"""DICOM segmentations and reports of predictions, and what they tell of image and model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.errors import BusiMonaiError, ImageReadError, InputError
from busi_monai.io.dicom_images import read_dicom_dataset, silent_pydicom
from busi_monai.io.image_files import ImageBytes
from busi_monai.records import installed_versions

if TYPE_CHECKING:
    from busi_monai.inference.prediction import Prediction

__all__ = [
    "MAXIMUM_FRACTION",
    "ModelIdentity",
    "check_dicom_support",
    "report_object",
    "segmentation_object",
    "source_reference",
    "writing_objects",
]

MAXIMUM_FRACTION = 255
NOTICE = f"{NOT_FOR_CLINICAL_USE} Predicted by a neural network, unread."

_UTF_8 = "ISO_IR 192"  # so that a bundle may be called what its owner likes
_SEGMENTATION_SERIES, _REPORT_SERIES = 1001, 1002
_SCHEME = "99BUSIMONAI"
_SINGLE_FRAME = "1.2.840.10008.5.1.4.1.1.6.1"  # Ultrasound Image Storage
_IN_STACK_POSITION = 0x00209057
_FRAME_CONTENT = 0x00209111

_REFERENCED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

# PS3.3 C.7.1.1 and C.7.2.1: whom and which examination an object belongs to
_IDENTIFYING = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)

# once lossy, an image and what is derived of it stay so (C.7.6.1.1.5)
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def _own_version() -> str:
    return installed_versions(["busi-monai"]).get("busi-monai", "unknown")


@dataclass(frozen=True)
class ModelIdentity:
    """Which bundle or run made a prediction, by which weights, run by which version of ours."""

    name: str
    weights_sha256: str
    version: str = field(default_factory=_own_version)


def check_dicom_support() -> None:
    """Check that DICOM objects can be written.

    Raises:
        InputError: naming the extra that is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise InputError(
            "DICOM objects are written with highdicom, which is not installed; run pip install "
            "'busi-monai[dicom]'"
        ) from error


@contextmanager
def writing_objects(source: Path | ImageBytes) -> Iterator[None]:
    """Keep quiet while an object is made that refers to a file, and tell its failure without words.

    pydicom and highdicom refuse and warn of what a file says of its patient or itself, naming it.

    Raises:
        ImageReadError: instead of whatever they raise.
    """
    try:
        with silent_pydicom():
            yield
    except (BusiMonaiError, OSError):
        raise
    except Exception as error:
        raise ImageReadError(
            f"{source}: no DICOM object can be written of it ({type(error).__name__})"
        ) from None


def source_reference(source: Path | ImageBytes, *, keep_ids: bool = False) -> Any:
    """Return the header that an object refers to its image by, and nothing else of the file.

    Args:
        source: a DICOM image.
        keep_ids: whether patient and examination are named as in the file; they are left empty
            otherwise, and only the UIDs tell what is referred to.

    Returns:
        A ``pydicom.Dataset`` of one frame without pixels.

    Raises:
        ImageReadError: if the file is no DICOM image that can be referred to.
    """
    import pydicom

    wanted = (*_REFERENCED, *_IDENTIFYING, *_LOSSY, "Modality", "Rows", "Columns")
    with silent_pydicom():
        try:
            found = read_dicom_dataset(source, pixels=False, tags=[*wanted, "SpecificCharacterSet"])
        except pydicom.errors.InvalidDicomError:
            raise ImageReadError(
                f"{source}: no DICOM file, so that no DICOM object can refer to it"
            ) from None
        missing = [name for name in _REFERENCED if not found.get(name)]
        if missing:
            raise ImageReadError(
                f"{source}: lacks {', '.join(missing)}, by which a DICOM object refers to it"
            )
        reference = pydicom.Dataset()
        for name in (*_REFERENCED, "Rows", "Columns", *(name for name in _LOSSY if name in found)):
            setattr(reference, name, found[name].value)
        reference.Modality = found.get("Modality") or "US"
        for name in _IDENTIFYING:
            setattr(reference, name, found.get(name, "") if keep_ids else "")
        reference.SpecificCharacterSet = _UTF_8
        return reference


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
    """Return a segmentation (PS3.3 A.51) of one segment, "Lesion", as a ``pydicom`` dataset.

    highdicom writes several frames only for images that have a place in the patient, which
    ultrasound loops have not: of a loop, the first frame is written by highdicom, the others are
    added with the same attributes and their own reference. Frames without lesion are left out, but
    for one where none has any.

    Args:
        reference: of the image, as from ``source_reference``.
        masks: (H, W) by number of the frame, counted from 0; 0 and 1, or 0 to 255 as parts of
            ``MAXIMUM_FRACTION`` if ``fractional``.
        model: which model made it.
        of_loop: whether the image is a loop, each of whose frames is referred to by its number.
        fractional: whether probabilities of the lesion are stored instead of a mask.
        series_uid: series that it belongs to; by default a new one.
        tracking_uid: of the lesion, the same in a report of it; by default a new one.
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
    # no spacing: highdicom would write it, and then not read the file without a slice thickness,
    # which ultrasound has not and the standard forbids to leave empty
    still = copy.deepcopy(reference)
    still.SOPClassUID = _SINGLE_FRAME
    made = highdicom.seg.Segmentation(
        source_images=[still],
        pixel_array=shown / np.float32(MAXIMUM_FRACTION) if fractional else shown,
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=[segment],
        series_instance_uid=series_uid or generate_uid(),
        series_number=_SEGMENTATION_SERIES,
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
    for element in made.iterall():  # the image's own class wherever the object refers to it
        if element.keyword == "ReferencedSOPClassUID":
            element.value = reference.SOPClassUID
    if of_loop:
        _add_frames(made, first, {n: mask for n, mask in masks.items() if mask.any()}, fractional)
    return made


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
        stack = np.stack([masks[number] for number in numbers])
        content = (stack if fractional else np.packbits(stack, bitorder="little")).tobytes()
        made.PixelData = content + b"\0" * (len(content) % 2)


def report_object(
    reference: Any,
    prediction: Prediction,
    model: ModelIdentity,
    *,
    frame: int | None = None,
    series_uid: str | None = None,
    tracking_uid: str | None = None,
) -> Any:
    """Return an Enhanced SR (PS3.3 A.35.2, TID 1500) of one prediction, as a ``pydicom`` dataset.

    Args:
        reference: of the image, as from ``source_reference``.
        prediction: what to report.
        model: which model made it, told as the observing device.
        frame: number of the frame it was made of, counted from 0; ``None`` for a still.
        series_uid: series that it belongs to; by default a new one.
        tracking_uid: of the lesion, the same in a segmentation of it; by default a new one.
    """
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    sr = highdicom.sr
    source = sr.SourceImageForMeasurementGroup(
        reference.SOPClassUID,
        reference.SOPInstanceUID,
        None if frame is None else [frame + 1],
    )
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[model.weights_sha256]),
            name="busi_monai",
            manufacturer_name="busi_monai",
            model_name=model.name,
            serial_number=model.weights_sha256,
        ),
    )
    found = prediction.has_mask and prediction.lesion_pixels > 0
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=tracking_uid or generate_uid(), identifier="Lesion" if found else "Image"
        ),
        finding_type=codes.SCT.Lesion if found else None,
        finding_sites=[sr.FindingSite(anatomic_location=codes.SCT.Breast)],
        algorithm_id=sr.AlgorithmIdentification(name="busi_monai", version=model.version),
        measurements=_measurements(prediction),
        qualitative_evaluations=_evaluations(prediction),
        source_images=[source],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.SCT.UltrasonographyOfBreast,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    for comment in (NOTICE, *(f"Note: {warning.message}." for warning in prediction.warnings)):
        report[0].ContentSequence.append(
            sr.TextContentItem(
                name=codes.DCM.Comment,
                value=comment,
                relationship_type=sr.RelationshipTypeValues.CONTAINS,
            )
        )
    return sr.EnhancedSR(
        evidence=[reference],
        content=report[0],
        series_instance_uid=series_uid or generate_uid(),
        series_number=_REPORT_SERIES,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="busi_monai",
        is_complete=True,
        specific_character_set=_UTF_8,
        series_description="Prediction, for research use only",
    )


def _measurements(prediction: Prediction) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes

    concept, measurement = highdicom.sr.CodedConcept, highdicom.sr.Measurement
    measured = [
        measurement(
            name=codes.DCM.ProbabilityOfCancer
            if name == "malignant"
            else concept(f"p_{name}", _SCHEME, f"Probability of {name}"),
            value=round(100 * probability, 4),
            unit=codes.UCUM.Percent,
        )
        for name, probability in prediction.probabilities.items()
    ]
    if not (prediction.has_mask and prediction.lesion_pixels):
        return measured
    px, mm = prediction.diameters_px or (None, None), prediction.diameters_mm or (None, None)
    millimetre = codes.UCUM.Millimeter
    for name, in_pixels, in_mm, unit in (
        (codes.SCT.Area, prediction.lesion_pixels, prediction.lesion_mm2,
         codes.UCUM.SquareMillimeter),
        (codes.SCT.LongAxis, px[0], mm[0], millimetre),
        (codes.SCT.ShortAxis, px[1], mm[1], millimetre),
    ):  # fmt: skip
        if in_mm is not None:
            measured.append(measurement(name=name, value=round(in_mm, 4), unit=unit))
        elif in_pixels is not None:
            pixels = concept("{pixels}", "UCUM", "pixels")
            measured.append(measurement(name=name, value=round(in_pixels, 4), unit=pixels))
    return measured


def _evaluations(prediction: Prediction) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes

    if prediction.predicted_class is None:
        return []
    kinds = {
        "normal": codes.SCT.Normal,
        "benign": codes.SCT.Benign,
        "malignant": codes.SCT.Malignant,
    }
    return [
        highdicom.sr.QualitativeEvaluation(
            name=highdicom.sr.CodedConcept("predicted_class", _SCHEME, "Predicted class"),
            value=kinds[prediction.predicted_class],
        )
    ]
