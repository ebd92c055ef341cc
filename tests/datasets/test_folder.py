from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.datasets import read_dataset
from busi_monai.errors import InputError


def make(root: Path, *names: str, labels: str | None = None) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if labels is not None:
        (root / "labels.csv").write_text(labels, encoding="utf-8")
    return root


def test_classes_from_the_table(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("images/a.png", "images/b.jpg", "images/c.png"),
        *("masks/a.png", "masks/b.png"),
        labels="image,label\na.png,Benign\nb, malignant\nc.png,normal\n",
    )

    listing = read_dataset(tmp_path)

    assert [(case.id, case.class_name, len(case.masks)) for case in listing.cases] == [
        ("c", "normal", 0),
        ("a", "benign", 1),
        ("b", "malignant", 1),
    ]
    assert listing.dataset == "folder"
    assert listing.problems == []


def test_a_table_with_byte_order_mark_and_more_columns(tmp_path: Path) -> None:
    make(
        tmp_path,
        "images/ä (1).png",
        "masks/ä (1).png",
        labels="\ufeffimage,age,label\nä (1).png,50,benign\n",
    )

    assert read_dataset(tmp_path).cases[0].class_name == "benign"


def test_without_a_table_the_name_tells_the_class(tmp_path: Path) -> None:
    make(tmp_path, "images/benign_1.png", "images/what.png", "masks/benign_1.png")

    listing = read_dataset(tmp_path)

    assert [case.id for case in listing.cases] == ["benign_1"]
    assert [(p.kind, p.id) for p in listing.problems] == [("unknown_class", "what")]


def test_no_class_at_all_asks_for_the_table(tmp_path: Path) -> None:
    make(tmp_path, "images/a.png", "masks/a.png")

    with pytest.raises(InputError, match=r"labels\.csv with the columns image,label"):
        read_dataset(tmp_path)


def test_everything_out_of_place_is_reported(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("images/a.png", "images/a.bmp", "images/note.txt", "masks/ghost.png"),
        labels="image,label\na.png,benign\ngone.png,benign\nb.png,cyst\n",
    )

    listing = read_dataset(tmp_path)

    assert {(p.kind, p.file, p.id) for p in listing.problems} == {
        ("duplicate_id", "images/a.bmp", "a"),
        ("stray_file", "images/note.txt", ""),
        ("mask_without_image", "masks/ghost.png", "ghost"),
        ("missing_image", "labels.csv", "gone"),
        ("unknown_class", "labels.csv", "b"),
        ("missing_mask", "images/a.png", "a"),
    }


def test_two_labels_of_one_picture_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "images/a.png", labels="image,label\na.png,benign\na,malignant\n")

    with pytest.raises(InputError, match="'a' is both benign and malignant"):
        read_dataset(tmp_path)


def test_a_table_without_its_columns_says_which(tmp_path: Path) -> None:
    make(tmp_path, "images/a.png", labels="file;class\na.png;benign\n")

    with pytest.raises(InputError, match="missing image, label"):
        read_dataset(tmp_path)


def test_a_table_that_is_no_text_is_an_input_error(tmp_path: Path) -> None:
    make(tmp_path, "images/a.png")
    (tmp_path / "labels.csv").write_bytes(b"image,label\n\xff\xfe,benign\n")

    with pytest.raises(InputError, match="UTF-8"):
        read_dataset(tmp_path)
