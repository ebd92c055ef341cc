from __future__ import annotations

from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from busi_monai.cases import Case
from busi_monai.datasets import Listing, natural_key
from busi_monai.datasets.listing import (
    case_ids,
    index_images,
    visible_files,
)
from busi_monai.errors import InputError
from busi_monai.io.image_files import MAX_ID_BYTES


def make_case(case_id: str, class_name: str) -> Case:
    return Case(case_id, Path(f"{case_id}.png"), (), class_name, "busi")


@pytest.mark.parametrize(
    "names",
    [
        ["9", "10"],
        ["b 2", "B 3", "b 10"],  # whatever the case
        ["A", "a", "B"],  # unless nothing else tells them apart
        ["x01", "x1", "X2"],
        ["scan", "scan1", "scan-1"],  # a digit before any other character
        ["x2", "x²", "x٣"],  # digits of other scripts are letters
        ["ss", "ß", "st"],
    ],
)
def test_the_natural_order(names: list[str]) -> None:
    assert all(natural_key(a) < natural_key(b) for a, b in pairwise(names))


def test_a_path_is_ordered_alike_on_every_system() -> None:
    assert natural_key(PureWindowsPath("a/2.png")) == natural_key(PurePosixPath("a/2.png"))


def test_the_names_of_busi_are_ordered_as_published_splits_are() -> None:
    names = [
        "benign (1)", "benign (1)_mask", "benign (1)_mask_1", "benign (2)", "benign (4)",
        "benign (4)#1", "benign (4)#2", "benign (10)", "benign (100)", "benign (100)_mask",
        "benign (437)", "malignant (1)", "malignant (53)_mask_1", "malignant (210)",
        "normal (1)", "normal (133)",
    ]  # fmt: skip
    assert sorted(set(names), key=natural_key) == names


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


def test_ids_are_unique_letter_case_aside_and_say_the_folder_only_where_needed(
    tmp_path: Path,
) -> None:
    problems: list = []

    names = ["a/Scan", "b/scan", "b-scan", "c/d/scan", "b/x", f"b/{'n' * 200}"]
    ids = case_ids(tmp_path, names, problems)

    assert list(ids.values())[:-1] == ["a-Scan", "b-scan-2", "b-scan", "c-d-scan", "x"]
    assert len(ids[names[-1]]) == MAX_ID_BYTES
    assert [p.kind for p in problems] == ["renamed_id"]


def test_a_listing_finds_a_case_by_its_id() -> None:
    listing = Listing("busi", Path("root"), [make_case("a", "benign")], [])

    assert listing.case("a").class_name == "benign"
    assert listing.class_counts == {"normal": 0, "benign": 1, "malignant": 0}
    with pytest.raises(InputError, match="no case 'b'"):
        listing.case("b")


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("this system makes no links")


def test_links_to_folders_are_followed_and_loops_are_cut_and_named(tmp_path: Path) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    images.mkdir()
    elsewhere.mkdir()
    (images / "a.png").touch()
    (elsewhere / "b.png").touch()
    link(images / "p2", elsewhere)
    link(images / "loop", images)
    link(elsewhere / "up", images)
    link(images / "gone.png", tmp_path / "nowhere.png")

    problems: list = []
    found = index_images(tmp_path, visible_files(images, recursive=True), problems, images)

    assert list(found) == ["a", "gone", "p2/b"]
    assert [(p.kind, p.file) for p in problems] == [
        ("stray_file", "images/loop"),
        ("stray_file", "images/p2/up"),
    ]
    assert "a link to a folder that it lies in" in problems[0].message
