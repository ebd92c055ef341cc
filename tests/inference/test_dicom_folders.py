from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.fileset import FileSet

from busi_monai.inference import find_images
from busi_monai.io.images import write_png

PIXELS = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60).astype(np.uint8)
Save = Callable[..., Path]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_files_without_suffix_and_named_by_uid(save_ultrasound: Save, tmp_path: Path) -> None:
    for name in ("IM0001", "1.2.840.17", "x.dcm"):
        save_ultrasound(tmp_path / name, PIXELS)
    (tmp_path / "README").write_text("no image")

    assert names(find_images([tmp_path]).paths) == ["1.2.840.17", "IM0001", "x.dcm"]


def test_a_tree_of_dicom_files(save_ultrasound: Save, tmp_path: Path) -> None:
    for name in ("A/S1/IM10", "A/S1/IM2", "A/S2/IM1", ".hidden/IM1"):
        save_ultrasound(tmp_path / name, PIXELS)

    found = find_images([tmp_path])

    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == [
        "A/S1/IM2", "A/S1/IM10", "A/S2/IM1",
    ]  # fmt: skip


def test_images_directly_in_a_folder_go_before_its_tree(
    save_ultrasound: Save, tmp_path: Path
) -> None:
    save_ultrasound(tmp_path / "below/IM1", PIXELS)
    write_png(tmp_path / "a.png", PIXELS)

    assert names(find_images([tmp_path]).paths) == ["a.png"]


def test_a_dicomdir_names_the_files(save_ultrasound: Save, tmp_path: Path) -> None:
    files = FileSet()
    for name in ("one", "two"):
        path = save_ultrasound(tmp_path / "src" / name, PIXELS)
        files.add(path)
    medium = tmp_path / "medium"
    files.write(medium)
    referenced = {path.name for path in medium.rglob("*") if path.is_file()} - {"DICOMDIR"}

    found = find_images([medium])

    assert set(names(found.paths)) == referenced
    assert len(found.paths) == 2


def test_a_dicomdir_cannot_lead_out_of_its_folder(save_ultrasound: Save, tmp_path: Path) -> None:
    save_ultrasound(tmp_path / "outside", PIXELS)
    files = FileSet()
    files.add(save_ultrasound(tmp_path / "src", PIXELS))
    files.write(tmp_path / "medium")
    directory = pydicom.dcmread(tmp_path / "medium/DICOMDIR")
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "outside"]
    directory.save_as(tmp_path / "medium/DICOMDIR")

    assert "outside" not in names(find_images([tmp_path / "medium"]).paths)


def test_names_of_a_dicomdir_in_lower_case_and_missing_files(
    save_ultrasound: Save, tmp_path: Path
) -> None:
    files = FileSet()
    for name in ("one", "two"):
        files.add(save_ultrasound(tmp_path / "src" / name, PIXELS))
    medium = tmp_path / "medium"
    files.write(medium)
    first, second = sorted(
        path for path in medium.rglob("*") if path.name not in {"DICOMDIR"} and path.is_file()
    )
    first.rename(first.with_name(first.name.lower()))
    second.unlink()
    write_png(medium / "logo.png", PIXELS)

    found = find_images([medium])

    assert names(found.paths) == ["logo.png", first.name.lower()]
    ((_, reason),) = found.failures
    assert "named by" in reason
    assert "but not there" in reason


def test_a_damaged_dicomdir_does_not_hide_the_files(save_ultrasound: Save, tmp_path: Path) -> None:
    save_ultrasound(tmp_path / "A/IM1", PIXELS)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)

    assert names(find_images([tmp_path]).paths) == ["IM1"]


def test_reports_and_segmentations_are_passed_over(save_ultrasound: Save, tmp_path: Path) -> None:
    save_ultrasound(tmp_path / "a.dcm", PIXELS)
    save_ultrasound(tmp_path / "b.dcm", PIXELS, Modality="SEG")
    report = pydicom.dcmread(save_ultrasound(tmp_path / "c.dcm", PIXELS, Modality="XX"))
    for name in ("Rows", "PixelData"):
        delattr(report, name)
    report.save_as(tmp_path / "c.dcm")

    found = find_images([tmp_path])

    assert names(found.paths) == ["a.dcm"]
    assert [(path.name, kind) for path, kind in found.skipped_objects] == [
        ("b.dcm", "a segmentation"), ("c.dcm", "no image"),
    ]  # fmt: skip
    assert found.failures == []


def test_a_folder_of_other_objects_only_says_so(save_ultrasound: Save, tmp_path: Path) -> None:
    save_ultrasound(tmp_path / "b.dcm", PIXELS, Modality="SR")

    ((_, reason),) = find_images([tmp_path]).failures

    assert "only DICOM files of other kinds" in reason


def test_a_damaged_dicom_file_stays_to_fail(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)

    assert names(find_images([tmp_path]).paths) == ["a.dcm"]
