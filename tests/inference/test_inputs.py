from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.fileset import FileSet

from busi_monai.datasets import read_dataset
from busi_monai.errors import ImageReadError, InputError
from busi_monai.inference import find_images, scan_images
from busi_monai.io.images import read_image, write_png

PIXELS = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60).astype(np.uint8)

Save = Callable[..., Path]


def make(folder: Path, *names: str) -> None:
    for name in names:
        write_png(folder / name, PIXELS)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_folder_is_sorted_as_people_count_and_leaves_out_masks_with_their_image(tmp_path):
    make(tmp_path, "benign (10).png", "benign (2).png", "benign (2)_mask.png")
    make(tmp_path, "benign (2)_mask_1.png", "lonely_mask.png", ".hidden.png")
    (tmp_path / "notes.txt").write_text("no image")
    found = find_images([tmp_path])
    assert names(found.paths) == ["benign (2).png", "benign (10).png", "lonely_mask.png"]
    assert names(found.skipped_masks) == ["benign (2)_mask.png", "benign (2)_mask_1.png"]
    assert found.failures == []


def test_a_folder_is_predicted_in_the_order_in_which_it_is_prepared(tmp_path):
    ids = ("scan", "A2", "a10", "Scan (1)", "a3", "x01", "B", "x1", "x²", "b1", "scan1", "a-1")
    make(tmp_path / "normal", *(f"{id}.png" for id in ids))
    prepared = [case.id for case in read_dataset(tmp_path, "busi").cases]
    assert sorted(prepared) == sorted(ids)
    assert [path.stem for path in find_images([tmp_path / "normal"]).paths] == prepared


def test_folder_is_not_entered_but_its_subfolders_are_hinted_at(tmp_path):
    make(tmp_path / "benign", "a.png")
    found = find_images([tmp_path])
    assert found.paths == []
    assert "subfolders" in found.failures[0][1]


def test_empty_folder_missing_path_and_unmatched_pattern_are_failures(tmp_path):
    (tmp_path / "empty").mkdir()
    found = find_images([tmp_path / "empty", tmp_path / "no.png", str(tmp_path / "x*.png")])
    assert [reason.split(": ")[1] for _, reason in found.failures] == [
        "the folder holds no images",
        "no such file or folder",
        "no image matches this pattern",
    ]


def test_a_name_with_brackets_that_exists_is_no_pattern(tmp_path):
    make(tmp_path, "a[1].png", "a1.png")
    assert names(find_images([tmp_path / "a[1].png"]).paths) == ["a[1].png"]
    assert names(find_images([str(tmp_path / "a[0-9].png")]).paths) == ["a1.png"]


def test_pattern_enters_subfolders_and_a_image_counts_once(tmp_path):
    make(tmp_path / "x", "a.png")
    make(tmp_path / "y", "b.png")
    found = find_images([tmp_path / "y", str(tmp_path / "**" / "*.png"), tmp_path / "y/b.png"])
    assert names(found.paths) == ["b.png", "a.png"]


@pytest.mark.parametrize(
    ("files", "inputs", "ids"),
    [
        (["one/A.png", "two/a.jpg", "two/scan.tif"], ["one", "two"], ["A-png", "a-jpg", "scan"]),
        (["one/A.png", "two/a.png"], ["one", "two"], ["one__A", "two__a"]),
        (["jane doe/scan.png", "jane doe/scan.tif"], ["jane doe"], ["scan-png", "scan-tif"]),
        (["x/p/1.png", "x/q/1.png"], ["x/*/*.png"], ["p__1", "q__1"]),
        (["jane/1.png", "john/1.png"], ["jane/1.png", "john/1.png"], ["1", "1-2"]),
        (
            ["x/1.png", "y/z/1.png", "y/1-2.png"],
            ["x/1.png", "y/z/1.png", "y"],
            ["1", "1-2", "1-2-2"],
        ),
    ],
)
def test_ids_tell_images_of_one_stem_apart_without_folders_above_the_input(
    files: list[str], inputs: list[str], ids: list[str], tmp_path: Path
) -> None:
    make(tmp_path, *files)
    given = [tmp_path / name if "*" not in name else str(tmp_path / name) for name in inputs]
    found = find_images(given)
    assert sorted(found.ids) == sorted(ids)
    assert len(found.ids) == len(found.paths)


def test_inputs_relative_to_the_working_folder_lead_to_short_ids(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "b/1.png")
    monkeypatch.chdir(tmp_path / "a")
    assert find_images([".", "../b"]).ids == ["1", "b__1"]


def test_what_a_folder_or_pattern_leaves_out_is_counted_by_kind(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "a_mask.png", "sub/b.png", ".hidden.png")
    for name in ("one.txt", "two.TXT", "x.heic", "README", "Thumbs.db"):
        (tmp_path / name).write_text("no image")
    left_out = {".heic": 1, ".txt": 2, "no suffix": 1}
    assert find_images([tmp_path]).left_out == left_out | {"subfolder": 1}
    pattern = find_images([str(tmp_path / "*")])
    assert pattern.left_out == left_out | {".db": 1}
    assert find_images([tmp_path / "a.png"]).left_out == {}


@pytest.mark.parametrize(
    "name", ["x.webp", "x.gif", "x.jp2", "x.pgm", "x.jfif", "x.jpe", "x.tga", "x.avif", "x.ppm"]
)
def test_a_folder_takes_each_format_that_is_read_when_named(name: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.convert("RGB" if name == "x.ppm" else "L").save(tmp_path / name)
    (item,) = scan_images(tmp_path).items
    assert read_image(item["image"]).pixels.shape == PIXELS.shape


def test_brackets_that_belong_to_names_are_hinted_at(tmp_path: Path) -> None:
    make(tmp_path, "scan[1] a.png")
    ((_, reason),) = find_images([str(tmp_path / "scan[1]*.png")]).failures
    given = reason.split("give '")[1].removesuffix("'")
    assert names(find_images([given]).paths) == ["scan[1] a.png"]


def test_scan_sorts_readable_images_from_others(tmp_path):
    make(tmp_path, "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    scan = scan_images(tmp_path)
    assert scan.items == [{"id": "good", "image": str(tmp_path / "good.png")}]
    assert scan.failures[0][0] == str(tmp_path / "bad.png")
    with pytest.raises(ImageReadError, match=r"1 inputs could not be used: .*bad\.png"):
        scan.raise_failures()


def test_scan_refuses_to_end_with_nothing(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        scan_images(tmp_path)


def test_of_a_folder_with_images_and_masks_the_images_are_named(tmp_path: Path) -> None:
    make(tmp_path / "both", "images/a.png", "masks/a.png")
    make(tmp_path / "plain", "study/a.png")
    for name, place in (("both", "images"), ("plain", "*/*")):
        with pytest.raises(InputError, match=re.escape(f"give '{tmp_path / name}/{place}'")):
            scan_images([tmp_path / name])


def test_what_is_named_like_the_mask_of_a_image_beside_it_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "x.png", "x_masks.png", "x-mask (1).png", "facemask.png", "y_mask.png")

    found = find_images([tmp_path])

    assert found.ids == ["facemask", "x", "y_mask"]
    assert {path.name for path in found.skipped_masks} == {"x_masks.png", "x-mask (1).png"}


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
