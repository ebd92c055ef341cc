from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from busi_monai.datasets import read_dataset
from busi_monai.errors import InputError

HEAD = ("CaseID", "Image_filename", "Mask_tumor_filename", "Pixel_size", "BIRADS", "Classification")


def make(
    root: Path, rows: list[tuple[object, ...]], *names: str, head: tuple[str, ...] = HEAD
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    workbook = openpyxl.Workbook()
    for row in (head, *rows):
        workbook.worksheets[0].append(row)
    workbook.save(root / "clinical data.xlsx")
    return root


def test_only_the_tumor_mask_is_the_lesion(tmp_path: Path) -> None:
    make(
        tmp_path,
        [
            (1, "case001.png", "case001_tumor.png", 0.007, "4a", "malignant"),
            (2, "case002.png", None, "not given", 1, "normal"),
        ],
        *("case001.png", "case001_tumor.png", "case001_other1.png", "case002.png"),
    )

    listing = read_dataset(tmp_path)

    assert listing.dataset == "breast_lesions_usg"
    assert [case.id for case in listing.cases] == ["case002", "case001"]
    assert [path.name for path in listing.cases[1].masks] == ["case001_tumor.png"]
    assert listing.cases[1].group == "breast_lesions_usg:1"
    assert listing.cases[1].spacing_mm is None
    assert listing.cases[1].meta == {
        "patient": "1",
        "pixel_size": 0.007,
        "birads": "4a",
        "classification": "malignant",
    }
    assert listing.problems == []


def test_images_in_a_folder_beside_the_table(tmp_path: Path) -> None:
    make(
        tmp_path / "download",
        [(1, "case001.png", "case001_tumor.png", 0.1, 3, "benign")],
        *("images and masks/case001.png", "images and masks/case001_tumor.png"),
    )

    assert read_dataset(tmp_path).dataset == "breast_lesions_usg"
    assert read_dataset(tmp_path).mask_count == 1


def test_masks_of_one_name_stay_with_the_image_beside_them(tmp_path: Path) -> None:
    make(
        tmp_path,
        [
            (1, "case001.png", "case001_tumor.png", None, None, "benign"),
            (2, "case002.png", "case002_tumor.png", None, None, "benign"),
        ],
        *("p1/case001.png", "p2/case001.png", "p2/case001_tumor.png"),
        *("images/case002.png", "masks/case002_tumor.png"),
    )

    listing = read_dataset(tmp_path)

    assert [(case.id, len(case.masks)) for case in listing.cases] == [("case002", 1)]
    assert {(p.kind, p.id) for p in listing.problems} == {
        ("renamed_id", ""),
        ("unknown_class", "p1-case001"),
        ("unknown_class", "p2-case001"),
        ("missing_image", "case001"),
    }


def test_table_and_files_that_disagree(tmp_path: Path) -> None:
    make(
        tmp_path,
        [
            (1, "case001.png", None, None, None, "benign"),
            (2, "case002.png", None, None, None, "cyst"),
            (3, "case003.png", None, None, None, "benign"),
            (None, None, None, None, None, None),
        ],
        *("case001.png", "case002.png", "case009.png", "case007_tumor.png", "notes.txt"),
    )

    assert {(p.kind, p.id) for p in read_dataset(tmp_path).problems} == {
        ("stray_file", ""),
        ("mask_without_image", "case007"),
        ("unknown_class", "case002"),
        ("unknown_class", "case009"),
        ("missing_mask", "case001"),
        ("missing_image", "case003"),
    }


def test_a_sheet_without_its_columns_says_which(tmp_path: Path) -> None:
    make(tmp_path, [], "case001.png", "case001_tumor.png", head=("CaseID", "Image_filename"))

    with pytest.raises(InputError, match="missing Classification"):
        read_dataset(tmp_path)


def test_a_damaged_sheet_is_an_input_error(tmp_path: Path) -> None:
    make(tmp_path, [], "case001.png", "case001_tumor.png")
    (tmp_path / "clinical data.xlsx").write_bytes(b"PK\x03\x04 no workbook")

    with pytest.raises(InputError, match="not a readable"):
        read_dataset(tmp_path)
