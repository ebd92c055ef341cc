"""DICOM files in folders: without suffix, named by a DICOMDIR, beside reports and segmentations."""

from __future__ import annotations

from pathlib import Path

from busi_monai.datasets import visible_files
from busi_monai.io.dicom_images import NOT_IMAGES, SUFFIXES, is_bare_dicom, silent_pydicom
from busi_monai.io.image_files import DICOMDIR

__all__ = ["DICOMDIR", "dicom_files_below", "files_of_dicomdir", "why_no_image"]


def dicom_files_below(folder: Path) -> list[Path]:
    """Return the DICOM files in all subfolders, in natural order; hidden ones left out."""
    return [
        path
        for path in visible_files(folder, recursive=True)
        if path.is_file() and (path.suffix.lower() in SUFFIXES or is_bare_dicom(path))
    ]


def files_of_dicomdir(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files inside a folder that its ``DICOMDIR`` names, and those that are not there.

    In its order. Names are compared without regard to case, as media were copied in either. A
    directory that cannot be read names none; a name that leads out of the folder is passed over.
    """
    directory = folder / DICOMDIR
    if not directory.is_file():
        return [], []
    import pydicom

    try:
        with silent_pydicom():
            records = pydicom.dcmread(directory).get("DirectoryRecordSequence") or []
            named = [record.get("ReferencedFileID") for record in records]
    except Exception:
        # pydicom raises anything for damaged files; the files themselves are looked for then
        return [], []
    there = {path.relative_to(folder).as_posix().casefold(): path for path in folder.rglob("*")}
    found, missing = [], []
    for parts in named:
        steps = [parts] if isinstance(parts, str) else [str(part) for part in parts or []]
        if not steps or ".." in steps:
            continue
        path = there.get("/".join(steps).casefold())
        if path is None:
            missing.append(folder.joinpath(*steps))
        elif path.is_file() and folder.resolve() in path.resolve().parents:
            found.append(path)
    return found, missing


def why_no_image(path: Path) -> str | None:
    """Return what a DICOM file holds instead of an image, ``None`` for one that may be read.

    Files that cannot be read are no matter of this function: reading them tells the reason.
    """
    if path.suffix.lower() not in SUFFIXES and not is_bare_dicom(path):
        return None
    import pydicom

    try:
        with silent_pydicom():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality", "Rows"]
            )
    except Exception:
        # whatever pydicom raises: the file is read later, and its failure told
        return None
    kind = NOT_IMAGES.get(str(header.get("Modality")))
    return kind or ("no image" if "SOPClassUID" in header and "Rows" not in header else None)
