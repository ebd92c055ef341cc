from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.cases import Case
from busi_monai.datasets import Listing, natural_key
from busi_monai.datasets.listing import case_stem, in_case_order, index_images, visible_files
from busi_monai.errors import InputError


def make_case(case_id: str, class_name: str) -> Case:
    return Case(case_id, Path(f"{case_id}.png"), (), class_name, "busi")


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["benign (10)", "benign (2)"]

    assert sorted(names, key=natural_key) == ["benign (2)", "benign (10)"]
    assert sorted(["10", "9"], key=natural_key) == ["9", "10"]


def test_leading_zeros_keep_names_apart() -> None:
    assert natural_key("x1") != natural_key("x01")


def test_cases_stand_in_the_order_of_the_classes() -> None:
    cases = [
        make_case("a", "malignant"),
        make_case("b10", "benign"),
        make_case("b9", "benign"),
        make_case("z", "normal"),
    ]

    assert [case.id for case in in_case_order(cases)] == ["z", "b9", "b10", "a"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("benign (1).png", "benign (1)"),
        ("BENIGN.PNG", "BENIGN"),
        ("scan.nii.gz", "scan"),
        ("a.b.png", "a.b"),
        ("notes.txt", "notes"),
    ],
)
def test_case_stem_drops_the_suffix_alone(name: str, stem: str) -> None:
    assert case_stem(name) == stem


def test_what_systems_leave_behind_is_not_visible(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", "a.png", "sub/b.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()

    assert [path.name for path in visible_files(tmp_path)] == ["a.png"]
    assert [path.name for path in visible_files(tmp_path, recursive=True)] == ["a.png", "b.png"]


def test_of_two_suffixes_the_earlier_known_one_is_taken(tmp_path: Path) -> None:
    problems: list = []
    files = [tmp_path / name for name in ("x.tif", "x.PNG", "x.jpg", "y.jpg", "z.docx")]

    images = index_images(tmp_path, files, problems)

    assert {stem: path.name for stem, path in images.items()} == {"x": "x.PNG", "y": "y.jpg"}
    kinds = [(p.kind, p.file, p.id) for p in problems]
    assert kinds == [
        ("stray_file", "z.docx", ""),
        ("duplicate_id", "x.jpg", "x"),
        ("duplicate_id", "x.tif", "x"),
    ]


def test_a_listing_finds_a_case_by_its_id() -> None:
    listing = Listing("busi", Path("root"), [make_case("a", "benign")], [])

    assert listing.case("a").class_name == "benign"
    assert listing.class_counts == {"normal": 0, "benign": 1, "malignant": 0}
    with pytest.raises(InputError, match="no case 'b'"):
        listing.case("b")


def test_digits_of_other_scripts_are_letters() -> None:
    assert sorted(["x²", "x2", "x٣"], key=natural_key) == ["x2", "x²", "x٣"]
