"""A DICOM structured report of one prediction: class, probabilities, sizes, notes, model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from busi_monai.inference.dicom_sources import CHARACTER_SET, ModelIdentity

if TYPE_CHECKING:
    from busi_monai.inference.prediction import Prediction

__all__ = ["report_object"]

SERIES_NUMBER = 1002

NOTICE = "For research use only; not a medical device. Predicted by a neural network, unread."

_SCHEME = "99BUSIMONAI"


def report_object(
    reference: Any,
    prediction: Prediction,
    model: ModelIdentity,
    *,
    frame: int | None = None,
    series_uid: str | None = None,
    tracking_uid: str | None = None,
) -> Any:
    """Return an Enhanced SR (PS3.3 A.35.2) by the template for measurement reports, TID 1500.

    Args:
        reference: of the image, as from ``source_reference``.
        prediction: what to report.
        model: which model made it, told as the observing device.
        frame: number of the frame it was made of, counted from 0; ``None`` for a still.
        series_uid: series that it belongs to; by default a new one.
        tracking_uid: of the lesion, the same in a segmentation of it; by default a new one.

    Returns:
        A ``pydicom`` dataset that can be saved.
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
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="busi_monai",
        is_complete=True,
        specific_character_set=CHARACTER_SET,
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
    pixels = concept("{pixels}", "UCUM", "pixels")
    sizes: list[tuple[Any, float | None, float | None]] = [
        (codes.SCT.Area, prediction.lesion_pixels, prediction.lesion_mm2)
    ]
    for axis, px, mm in zip(
        (codes.SCT.LongAxis, codes.SCT.ShortAxis),
        prediction.diameters_px or (None, None),
        prediction.diameters_mm or (None, None),
        strict=True,
    ):
        sizes.append((axis, px, mm))
    for name, in_pixels, in_mm in sizes:
        if in_mm is not None:
            unit = codes.UCUM.SquareMillimeter if name == codes.SCT.Area else codes.UCUM.Millimeter
            measured.append(measurement(name=name, value=round(in_mm, 4), unit=unit))
        elif in_pixels is not None:
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
