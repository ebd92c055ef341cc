from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.datasets import Listing, read_dataset
from busi_monai.errors import InputError


def make(root: Path, *names: str, labels: str | None = None) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if labels is not None:
        (root / "labels.csv").write_text(labels, encoding="utf-8")
    return root


def listed(root: Path, *names: str, labels: str | None = None) -> Listing:
    """What is read of a folder with these empty files."""
    return read_dataset(make(root, *names, labels=labels))


def test_classes_from_the_table(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/a.png", "images/b.jpg", "images/c.png"),
        *("masks/a.png", "masks/b.png"),
        labels="image,label\na.png,Benign\nb, malignant\nc.png,normal\n",
    )
    assert [(case.id, case.class_name, len(case.masks)) for case in listing.cases] == [
        ("c", "normal", 0),
        ("a", "benign", 1),
        ("b", "malignant", 1),
    ]
    assert listing.dataset == "folder"
    assert listing.problems == []


def test_without_a_table_the_name_tells_the_class(tmp_path: Path) -> None:
    listing = listed(tmp_path, "images/benign_1.png", "images/what.png", "masks/benign_1.png")
    assert [case.id for case in listing.cases] == ["benign_1"]
    assert [(p.kind, p.id) for p in listing.problems] == [("unknown_class", "what")]


def test_everything_out_of_place_is_reported(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/a.png", "images/a.bmp", "images/note.txt", "masks/ghost.png"),
        labels="image,label\na.png,benign\ngone.png,benign\nb.png,cyst\n",
    )
    assert {(p.kind, p.file, p.id) for p in listing.problems} == {
        ("duplicate_id", "images/a.bmp", "a"),
        ("stray_file", "images/note.txt", ""),
        ("mask_without_image", "masks/ghost.png", "ghost"),
        ("missing_image", "labels.csv", "gone"),
        ("unknown_class", "labels.csv", "b"),
        ("missing_mask", "images/a.png", "a"),
    }


PLAIN = "image,label\na b.png,normal\nc.d.png,benign\nE.png,malignant\n"
DIALECTS = {
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "byte-order mark and CRLF": b"\xef\xbb\xbf" + PLAIN.replace("\n", " \r\n").encode(),
    "UTF-16": PLAIN.replace(",", "\t").encode("utf-16"),
    "letter case": PLAIN.replace("image,label", "Image,LABEL").title().encode(),
    "folder": PLAIN.replace("\n", "\nimages/").removesuffix("images/").encode(),
    "other slashes": PLAIN.replace("\n", "\nC:\\set\\images\\").rpartition("C:")[0].encode(),
    "no suffix": PLAIN.replace(".png", "").encode(),
    "another suffix": PLAIN.replace(".png", ".jpg").encode(),
    "blank rows": PLAIN.replace("\n", "\n,\n").encode(),
    "more columns": PLAIN.replace("image,", "id,image,").replace("\n", "\n7,").encode(),
    "stated numbers": b"image,label 0=malignant 1=Benign 7=normal\na b,7\nc.d,1.0\nE,0\n",
    "stated numbers in brackets": b'image;"Label (0=malignant, 1=benign, 7=normal)"\n'
    b"a b;7\nc.d;1\nE;0\n",
}


@pytest.mark.parametrize("table", DIALECTS.values(), ids=DIALECTS.keys())
@pytest.mark.parametrize("name", ["labels.csv", "Labels.CSV"])
def test_the_table_as_other_programs_write_it(tmp_path: Path, table: bytes, name: str) -> None:
    make(
        tmp_path, "images/a b.png", "images/c.d.png", "images/E.png", "masks/c.d.png", "masks/E.png"
    )
    (tmp_path / name).write_bytes(table)

    listing = read_dataset(tmp_path)

    assert {case.id: case.class_name for case in listing.cases} == {
        "a b": "normal",
        "c.d": "benign",
        "E": "malignant",
    }
    assert listing.problems == []


def test_letter_case_counts_where_it_tells_two_images_apart(tmp_path: Path) -> None:
    make(tmp_path, "images/p/A.png", "images/q/a.png", labels="image,label\na,normal\nA,benign\n")

    assert {case.id: case.class_name for case in read_dataset(tmp_path).cases} == {
        "q-a": "normal",
        "p-A": "benign",
    }


def test_rows_that_cannot_be_read_are_told_by_their_line(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/a.png", "images/benign_2.png"),
        labels="image,label\na.png,normal\nbenign_2.png,cyst\ngone.png,benign\n",
    )
    assert [case.id for case in listing.cases] == ["a"]  # the row counts, not the file's name
    assert [(p.kind, p.file, p.message) for p in listing.problems] == [
        (
            "unknown_class",
            "labels.csv",
            "row 3: label 'cyst'; expected normal, benign, malignant",
        ),
        (
            "missing_image",
            "labels.csv",
            "row 4 lists 'gone.png', but there is no such image in images",
        ),
    ]


def test_names_of_several_subfolders_are_paired_by_these(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/p1/scan.png", "images/p2/scan.png", "images/p2/other.png"),
        *("masks/p2/scan.png", "masks/p2/other.png"),
        labels="image,label\np1/scan.png,benign\np2/scan.png,malignant\nother.png,benign\n",
    )
    found = {
        case.id: [m.relative_to(tmp_path).as_posix() for m in case.masks] for case in listing.cases
    }
    assert found == {
        "other": ["masks/p2/other.png"],
        "p1-scan": [],
        "p2-scan": ["masks/p2/scan.png"],
    }
    assert {(p.kind, p.id) for p in listing.problems} == {
        ("renamed_id", ""),
        ("missing_mask", "p1-scan"),
    }


def test_a_flat_folder_of_masks_goes_with_subfolders_where_names_are_single(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/p1/benign_1.png", "images/p1/benign_2.png", "images/p2/benign_2.png"),
        *("masks/benign_1.png", "masks/benign_2.png"),
    )
    assert [(case.id, len(case.masks)) for case in listing.cases] == [
        ("benign_1", 1),
        ("p1-benign_2", 0),
        ("p2-benign_2", 0),
    ]
    unpaired = next(p for p in listing.problems if p.kind == "mask_without_image")
    assert unpaired.file == "masks/benign_2.png"
    assert "only images/p1/benign_2.png, images/p2/benign_2.png" in unpaired.message


def test_a_row_that_names_several_images_names_none(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/p1/scan.png", "images/p2/scan.png", "images/p2/other.png", "masks/p2/other.png"),
        labels="image,label\nscan.png,benign\nother.png,benign\n",
    )
    assert [case.id for case in listing.cases] == ["other"]
    messages = {p.file: p.message for p in listing.problems if p.kind == "unknown_class"}
    assert "row 2: 'scan.png' stands for several images" in messages["labels.csv"]
    assert "images/p1/scan.png, images/p2/scan.png" in messages["labels.csv"]
    assert {"images/p1/scan.png", "images/p2/scan.png"} < messages.keys()


@pytest.mark.parametrize(
    ("name", "row"), [("10", "10.5"), ("10", "10.1"), ("scan", "scan.v2"), ("scan", "scan.dat")]
)
def test_only_the_suffix_of_an_image_is_cut_in_the_table(
    tmp_path: Path, name: str, row: str
) -> None:
    listing = listed(
        tmp_path,
        f"images/{name}.png",
        labels=f"image,label\n{name}.png,normal\n{row},malignant\n",
    )
    assert {case.id: case.class_name for case in listing.cases} == {name: "normal"}
    assert [(p.kind, p.id) for p in listing.problems] == [("missing_image", row)]


def test_names_alone_pair_only_where_a_whole_folder_has_no_subfolders(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/p1/benign_1.png", "images/benign_2.png"),
        *("masks/p1/benign_1.png", "masks/p2/benign_2.png"),
    )
    assert {case.id: len(case.masks) for case in listing.cases} == {"benign_1": 1, "benign_2": 0}
    assert ("mask_without_image", "masks/p2/benign_2.png") in {
        (p.kind, p.file) for p in listing.problems
    }


def test_a_class_in_a_name_is_a_whole_word(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/normalized_malignant_01.png", "images/normality.png"),
        *("images/Normal-1.png", "images/normal2.png", "masks/other.png"),
    )
    assert {case.id for case in listing.cases} == {"Normal-1", "normal2"}
    assert {p.id for p in listing.problems if p.kind == "unknown_class"} == {
        "normalized_malignant_01",
        "normality",
    }


def test_a_second_folder_of_images_or_masks_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "Images/normal_1.png", "images/normal_2.png", "Masks/a.png", "masks/b.png")
    if len(list(tmp_path.iterdir())) < 4:
        pytest.skip("this file system takes both names for one")

    listing = read_dataset(tmp_path)

    assert [case.id for case in listing.cases] == ["normal_1"]
    strays = {p.file: p.message for p in listing.problems if p.kind == "stray_file"}
    assert strays == {
        "images": "beside the folder Images, which was read; move its files there",
        "masks": "beside the folder Masks, which was read; move its files there",
    }


def test_letters_in_two_forms_are_one_in_files_and_table(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/a\u0308/o\u0308.png", "masks/\u00e4/\u00f6.png"),
        labels="image,label\n\u00e4/\u00f6.png,malignant\n",
    )
    assert [(case.id, len(case.masks)) for case in listing.cases] == [("\u00f6", 1)]
    assert listing.problems == []


def test_bare_dicom_files_are_images(tmp_path: Path) -> None:
    make(tmp_path, "images/README", "masks/1.2.840.7.png", labels="image,label\n1.2.840.7,benign\n")
    (tmp_path / "images" / "1.2.840.7").write_bytes(bytes(128) + b"DICM")

    listing = read_dataset(tmp_path)

    assert [(case.id, case.class_name, len(case.masks)) for case in listing.cases] == [
        ("1.2.840.7", "benign", 1)
    ]
    assert [(p.kind, p.file) for p in listing.problems] == [("stray_file", "images/README")]


def test_a_image_with_a_good_and_a_refused_row_is_left_out(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/a.png", "images/b.png"),
        labels="image,label\na,normal\na,cyst\nb,normal\n",
    )
    assert [case.id for case in listing.cases] == ["b"]
    assert [(p.kind, p.id) for p in listing.problems] == [("unknown_class", "a")]


def test_the_line_of_a_row_counts_the_line_that_states_the_separator(tmp_path: Path) -> None:
    listing = listed(tmp_path, "images/a.png", labels="sep=;\nimage;label\na;normal\nb,c;cyst\n")
    assert [case.id for case in listing.cases] == ["a"]
    assert listing.problems[0].message.startswith("row 4: label 'cyst'")


def test_a_mask_among_the_images_is_no_image(tmp_path: Path) -> None:
    listing = listed(
        tmp_path,
        *("images/p/normal_1.png", "images/p/normal_1_mask.png", "images/p/normal_1-masks.png"),
        *("images/normal_1_mask.png", "masks/other.png"),
    )
    assert {case.image.relative_to(tmp_path).as_posix() for case in listing.cases} == {
        "images/p/normal_1.png",
        "images/normal_1_mask.png",  # no image of that name beside it
    }
    strays = {p.file: p.message for p in listing.problems if p.kind == "stray_file"}
    assert strays == dict.fromkeys(
        ("images/p/normal_1_mask.png", "images/p/normal_1-masks.png"),
        "looks like a mask of normal_1; move it to masks, under that name",
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"labels\.csv with the columns image,label"),
        ("image;label\na;0\nb;2\n", r"labels\.csv: the labels are numbers \(0, 2\)"),
        ("image;label\na;0\nb;2\n", r"image, label 0=normal 1=benign 2=malignant"),
        ("image,label 0=cyst\na,0\n", "'cyst'; expected normal, benign, malignant"),
        ("image,label\na.png,cyst\nc.png,benign\n", r"csv gives no .*row 2: label 'cyst'.*row 3"),
        ("image,label\na.png,benign\na,malignant\n", "'a' is both benign and malignant"),
        ("file;class\na.png;benign\n", "missing image, label"),
        (b"image,label\n\xff\xfe,benign\n", "UTF-8"),
        ("image,label,Label\na,normal,\n", "'label' and 'Label'; remove all but one"),
        ("image,label 0=normal,label\na,0,\n", "'label 0=normal' and 'label'; remove all but one"),
        ("IMAGE,image,label\na,a,normal\n", "'IMAGE' and 'image'; remove all but one"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(
    tmp_path: Path, labels: str | bytes | None, message: str
) -> None:
    make(tmp_path, "images/a.png", "images/b.png", "masks/a.png")
    if labels is not None:
        content = labels.encode() if isinstance(labels, str) else labels
        (tmp_path / "labels.csv").write_bytes(content)

    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path)
