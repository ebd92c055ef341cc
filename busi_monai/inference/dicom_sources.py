"""What DICOM objects of ours tell of the image that they refer to, and of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from busi_monai.errors import BusiMonaiError, ImageReadError, InputError
from busi_monai.io.dicom_images import read_dicom_dataset, silent_pydicom
from busi_monai.io.image_files import ImageBytes
from busi_monai.records import installed_versions

__all__ = [
    "CHARACTER_SET",
    "ModelIdentity",
    "check_dicom_support",
    "source_reference",
    "writing_objects",
]

CHARACTER_SET = "ISO_IR 192"
"""UTF-8, so that a bundle may be called what its owner likes."""

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
    """Which model made a prediction.

    Attributes:
        name: name of its bundle or run.
        weights_sha256: of its ``models/model.pt``.
        version: of the package that ran it.
    """

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

    wanted = [*_REFERENCED, *_IDENTIFYING, *_LOSSY, "Modality", "Rows", "Columns"]
    with silent_pydicom():
        try:
            found = read_dicom_dataset(source, pixels=False, tags=[*wanted, "SpecificCharacterSet"])
        except pydicom.errors.InvalidDicomError:
            raise ImageReadError(
                f"{source}: no DICOM file, so that no DICOM object can refer to it"
            ) from None
        return _reference(found, source, keep_ids=keep_ids)


def _reference(found: Any, source: Path | ImageBytes, *, keep_ids: bool) -> Any:
    import pydicom

    missing = [name for name in _REFERENCED if not found.get(name)]
    if missing:
        raise ImageReadError(
            f"{source}: lacks {', '.join(missing)}, by which a DICOM object refers to it"
        )
    reference = pydicom.Dataset()
    for name in (*_REFERENCED, "Rows", "Columns"):
        setattr(reference, name, found[name].value)
    reference.Modality = found.get("Modality") or "US"
    for name in _IDENTIFYING:
        setattr(reference, name, found.get(name, "") if keep_ids else "")
    reference.SpecificCharacterSet = CHARACTER_SET
    for name in _LOSSY:
        if name in found:
            setattr(reference, name, found[name].value)
    return reference
