from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.datasets import Listing, read_dataset


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"only the name counts")
    return root


def kinds(listing: Listing) -> set[tuple[str, str]]:
    return {(problem.kind, problem.file) for problem in listing.problems}


def test_masks_belong_to_their_image_and_are_no_images(tmp_path: Path) -> None:
    make(
        tmp_path,
        "benign/benign (4).png",
        "benign/benign (4)_mask.png",
        "benign/benign (4)_mask_1.png",
        "benign/benign (4)_mask_10.png",
        "benign/benign (4)_mask_2.png",
        "normal/normal (1).png",
    )

    listing = read_dataset(tmp_path)

    assert [case.id for case in listing.cases] == ["normal (1)", "benign (4)"]
    assert [path.name for path in listing.cases[1].masks] == [
        "benign (4)_mask.png",
        "benign (4)_mask_1.png",
        "benign (4)_mask_2.png",
        "benign (4)_mask_10.png",
    ]
    assert listing.problems == []
    assert listing.cases[1].group is None


def test_a_normal_needs_no_mask_but_a_lesion_does(tmp_path: Path) -> None:
    make(tmp_path, "normal/n.png", "benign/b.png")

    listing = read_dataset(tmp_path)

    assert kinds(listing) == {("missing_mask", "benign/b.png")}
    assert [case.lacks_mask for case in listing.cases] == [False, True]


def test_spaces_brackets_and_foreign_letters_in_names(tmp_path: Path) -> None:
    names = ("łagodna zmiana [1]", "良性 (2)", "a_mask_of_sorts")
    for name in names:
        make(tmp_path, f"benign/{name}.png", f"benign/{name}_mask.png")

    listing = read_dataset(tmp_path)

    assert {case.id for case in listing.cases} == set(names)
    assert all(len(case.masks) == 1 for case in listing.cases)
    assert listing.problems == []


def test_upper_case_suffixes_and_folders(tmp_path: Path) -> None:
    make(tmp_path, "Benign/x.PNG", "Benign/x_MASK.PNG", "MALIGNANT/y.JPG", "MALIGNANT/y_mask.png")

    listing = read_dataset(tmp_path)

    assert [(case.id, case.class_name) for case in listing.cases] == [
        ("x", "benign"),
        ("y", "malignant"),
    ]
    assert listing.mask_count == 2


def test_what_does_not_belong_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    make(
        tmp_path,
        "benign/x.png",
        "benign/x_mask.png",
        "benign/ghost_mask.png",
        "benign/notes.txt",
        "benign/more/y.png",
        "cyst/z.png",
        "README.md",
        ".DS_Store",
    )

    listing = read_dataset(tmp_path)

    assert [case.id for case in listing.cases] == ["x"]
    assert kinds(listing) == {
        ("mask_without_image", "benign/ghost_mask.png"),
        ("stray_file", "benign/notes.txt"),
        ("stray_file", "benign/more/y.png"),
        ("stray_file", "README.md"),
        ("unknown_class", "cyst"),
    }
    assert all(problem.message for problem in listing.problems)


def test_one_id_with_two_suffixes_is_one_case(tmp_path: Path) -> None:
    make(tmp_path, "benign/x.png", "benign/x.jpg", "benign/x_mask.png")

    listing = read_dataset(tmp_path)

    assert [case.image.name for case in listing.cases] == ["x.png"]
    assert kinds(listing) == {("duplicate_id", "benign/x.jpg")}


def test_one_id_in_two_classes_keeps_both_under_unique_ids(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("benign/001.png", "benign/001_mask.png", "benign/malignant-001.png"),
        *("malignant/001.png", "malignant/001_mask.png"),
    )

    listing = read_dataset(tmp_path)

    ids = [case.id for case in listing.cases]
    assert ids == ["benign-001", "malignant-001", "malignant-001-2"]
    assert [len(case.masks) for case in listing.cases] == [1, 0, 1]
    assert kinds(listing) == {("renamed_id", "."), ("missing_mask", "benign/malignant-001.png")}
    assert "'benign-001', 'malignant-001-2'" in listing.problems[0].message


def test_a_second_folder_of_a_class_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "Benign/a.png", "Benign/a_mask.png", "benign/b.png")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes both names for one")

    assert kinds(read_dataset(tmp_path)) == {("unknown_class", "benign")}


@pytest.mark.realdata
def test_the_real_busi(real_busi: Path) -> None:
    listing = read_dataset(real_busi)

    assert listing.class_counts == {"normal": 133, "benign": 437, "malignant": 210}
    assert listing.mask_count == 798
    assert sum(len(case.masks) > 1 for case in listing.cases) == 17
    assert max(len(case.masks) for case in listing.cases) == 3
    assert listing.problems == []
    assert listing.cases[1].id == "normal (2)"


LIKE_MASKS = ["x_masks", "x_mask (1)", "x_mask - Copy", "x-mask", "x_mask1", "X_Mask.2", "mask_x"]


@pytest.mark.parametrize("class_name", ["normal", "benign"])
def test_what_is_named_like_the_mask_of_an_image_is_no_image(
    tmp_path: Path, class_name: str
) -> None:
    make(tmp_path, f"{class_name}/x.png", f"{class_name}/x_mask.png", f"{class_name}/facemask.png")
    make(tmp_path, *(f"{class_name}/{name}.png" for name in LIKE_MASKS))

    listing = read_dataset(tmp_path)

    assert {case.id for case in listing.cases} == {"x", "facemask"}
    assert [path.name for path in listing.case("x").masks] == ["x_mask.png"]
    strays = {p.file: p.message for p in listing.problems if p.kind == "stray_file"}
    assert strays.keys() == {f"{class_name}/{name}.png" for name in LIKE_MASKS}
    assert strays[f"{class_name}/x-mask.png"] == (
        "looks like a mask of x; rename it to x_mask_1.png"
    )


def test_a_letter_in_two_forms_is_one(tmp_path: Path) -> None:
    make(tmp_path, "benign/la\u0308sion.png", "benign/l\u00e4sion_mask.png")

    case = read_dataset(tmp_path).cases[0]

    assert (case.id, len(case.masks)) == ("l\u00e4sion", 1)
