from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from busi_monai.datasets import lesion_mask, read_dataset
from busi_monai.errors import InputError
from tests.datasets.annotation_files import (
    CORNERS,
    FLAT,
    as_labelme,
    as_yolo,
    coco,
    draw,
    kinds,
    labelme,
)


def part_labels(root: Path, part: str) -> None:
    """Write an image and its polygon as Roboflow does."""
    draw(root / part / "images" / f"{part}.png", len(part))
    label = root / part / "labels" / f"{part}.txt"
    label.parent.mkdir()
    label.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n", encoding="utf-8")


def as_any_json(root: Path) -> None:
    draw(root / "images" / "p1" / "a.png", 1)
    coco(root / "export 7.json", {"p1/a.png": [("benign", [FLAT])]})


def as_data_folder(root: Path) -> None:
    draw(root / "data" / "a.png", 1)
    coco(root / "labels.json", {"a.png": [("benign", [FLAT])]})


def as_patients(root: Path) -> None:
    for patient in ("p1", "p2"):
        draw(root / patient / "a.png", 1)
        labelme(root / patient / "a.json", [{"label": "benign", "points": CORNERS}])


def as_patients_in_images(root: Path) -> None:
    as_patients(root / "images")


def as_annotations_folder(root: Path) -> None:
    draw(root / "images" / "a.png", 1)
    (root / "annotations").mkdir()
    shape = {"label": "benign", "points": CORNERS}
    labelme(root / "annotations" / "a.json", [shape], imagePath="../images/a.png")


def as_coco_2017(root: Path) -> None:
    for part in ("train2017", "val2017"):
        draw(root / part / f"{part}.png", 1)
        drawn = {f"{part}.png": [("benign", [FLAT])]}
        coco(root / "annotations" / f"instances_{part}.json", drawn)


def as_roboflow(root: Path) -> None:
    for part in ("train", "valid", "test"):
        part_labels(root, part)
    (root / "data.yaml").write_text("names: [benign]\n", encoding="utf-8")


def as_ultralytics(root: Path) -> None:
    as_yolo(root)
    (root / "data.yaml").rename(root / "breast.yaml")


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (as_any_json, {"a": None}),
        (as_data_folder, {"a": None}),
        (as_patients, {"p1-a": None, "p2-a": None}),
        (as_patients_in_images, {"p1-a": None, "p2-a": None}),
        (as_annotations_folder, {"a": None}),
        (as_coco_2017, {"train2017": "train", "val2017": "validation"}),
        (as_roboflow, {"test": "test", "train": "train", "valid": "validation"}),
        (as_ultralytics, {"x1": "train"}),
    ],
)
@pytest.mark.parametrize("nested", ["", "a/b"])
def test_annotations_are_found_where_programs_put_them(write, found, nested, tmp_path):
    write(tmp_path / nested)
    listing = read_dataset(tmp_path)
    assert listing.root == tmp_path / nested
    assert {case.id: case.meta.get("official_split") for case in listing.cases} == found
    assert {case.class_name for case in listing.cases} == {"benign"}
    assert kinds(listing).keys() <= {"renamed_id"}


def test_jsons_beside_images_make_no_other_layout_one_of_annotations(phantom_busi, tmp_path):
    shutil.copytree(phantom_busi, tmp_path / "busi")
    as_labelme(tmp_path / "busi" / "benign")
    assert read_dataset(tmp_path).dataset == "busi"
    coco(tmp_path / "busi" / "annotations.json", {})
    assert read_dataset(tmp_path).dataset == "busi"
    as_labelme(tmp_path / "single")
    with pytest.raises(InputError, match=r"several datasets: busi \(busi\), single \(folder\)"):
        read_dataset(tmp_path)


def test_categories_of_yolo_without_names_say_where_these_are_looked_for(tmp_path):
    part_labels(tmp_path, "train")
    with pytest.raises(InputError, match=r"no names of YOLO's numbers .*\(data\.yaml\).*in labels"):
        read_dataset(tmp_path)


def test_yaml_that_cannot_be_read_is_named_once_where_no_other_gives_names(tmp_path):
    as_yolo(tmp_path)
    (tmp_path / "a.yaml").write_text("names: [", encoding="utf-8")
    assert list(kinds(read_dataset(tmp_path))) == ["stray_file"]
    (tmp_path / "labels.csv").write_text("image,label\nx1,benign\n", encoding="utf-8")
    (tmp_path / "data.yaml").unlink()
    (problem,) = read_dataset(tmp_path).problems
    assert (problem.kind, problem.file) == ("annotation", "a.yaml")


@pytest.mark.parametrize("name", ["missing.png", "../outside.png", "/etc/hostname"])
def test_annotations_of_images_that_are_not_there_are_named(name, tmp_path):
    draw(tmp_path / "outside.png", 1)
    draw(tmp_path / "in" / "x.png", 1)
    drawn = {name: [("benign", [FLAT])], "x.png": [("benign", [FLAT])]}
    coco(tmp_path / "in" / "annotations.json", drawn)
    listing = read_dataset(tmp_path / "in")
    (message,) = kinds(listing)["missing_image"]
    assert f"lists the image {name!r}" in message
    assert [case.id for case in listing.cases] == ["x"]


def test_links_of_one_file_keep_their_own_outlines(tmp_path):
    draw(tmp_path / "images" / "a.png", 1)
    (tmp_path / "images" / "b.png").hardlink_to(tmp_path / "images" / "a.png")
    other = [[40, 30, 50, 30, 50, 39, 40, 39]]
    drawn = {"a.png": [("benign", [FLAT])], "b.png": [("malignant", other)]}
    coco(tmp_path / "annotations.json", drawn)
    found = {case.id: lesion_mask(case).sum() for case in read_dataset(tmp_path).cases}
    assert found == {"a": 400, "b": 90}


@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_letter_case_tells_images_apart_where_there_are_both(kind, tmp_path):
    classes = {"x": "benign", "X": "malignant"}
    for name in classes:
        draw(tmp_path / f"{name}.png", len(kind))
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system holds both for one name")
    for name, label in classes.items():
        if kind == "labelme":
            labelme(tmp_path / f"{name}.json", [{"label": label, "points": CORNERS}])
    if kind == "coco":
        drawn = {f"{name}.png": [(label, [FLAT])] for name, label in classes.items()}
        coco(tmp_path / "annotations.json", drawn)
    found = {case.image.stem: case.class_name for case in read_dataset(tmp_path).cases}
    assert found == classes


def test_accents_compare_however_they_are_written(tmp_path):
    draw(tmp_path / "images" / f"{unicodedata.normalize('NFD', 'läsion')}.png", 1)
    name = unicodedata.normalize("NFC", "läsion.png")
    coco(tmp_path / "annotations.json", {name: [("benign", [FLAT])]})
    assert len(read_dataset(tmp_path).cases) == 1


def test_of_images_that_differ_in_suffix_the_annotated_one_is_taken(tmp_path):
    for name in ("a.png", "a.bmp", "b.png", "b.bmp"):
        draw(tmp_path / "in.png", len(name))
        Image.open(tmp_path / "in.png").save(tmp_path / name)
    (tmp_path / "in.png").unlink()
    shape = {"label": "benign", "points": CORNERS}
    labelme(tmp_path / "a.json", [shape], imagePath="a.bmp")
    labelme(tmp_path / "b.json", [shape], imagePath="C:\\gone\\b.jpg")
    listing = read_dataset(tmp_path)
    assert [case.image.name for case in listing.cases] == ["a.bmp", "b.png"]
    assert [line.split()[0] for line in kinds(listing)["duplicate_id"]] == ["a.png", "b.bmp"]
    assert "unlabelled" not in kinds(listing)


def test_text_of_yolo_belongs_to_the_image_that_is_kept(tmp_path):
    as_yolo(tmp_path)
    image = tmp_path / "images" / "train" / "x1.png"
    Image.open(image).save(image.with_suffix(".bmp"))
    listing = read_dataset(tmp_path)
    assert [case.image for case in listing.cases] == [image]
    assert list(kinds(listing)) == ["duplicate_id"]


def test_labelme_beside_one_image_that_names_another_is_reported(tmp_path):
    as_labelme(tmp_path)
    draw(tmp_path / "x2.png", 2)
    shape = {"label": "benign", "points": CORNERS}
    labelme(tmp_path / "x2.json", [shape], imagePath="x1.png")
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x1"]
    assert lesion_mask(listing.cases[0]).sum() == 400
    (message,) = kinds(listing)["annotation"]
    assert message.startswith("x2.json imagePath: lies beside x2.png, but annotates x1.png")


def test_the_name_of_a_json_tells_the_part_of_images_of_one_name(tmp_path):
    for part in ("train", "val"):
        draw(tmp_path / "images" / part / "x.png", len(part))
        drawn = {"x.png": [("benign" if part == "train" else "malignant", [FLAT])]}
        coco(tmp_path / "annotations" / f"instances_{part}2017.json", drawn)
    coco(tmp_path / "annotations" / "more.json", {"x.png": [("benign", [FLAT])]})
    listing = read_dataset(tmp_path)
    assert {case.id: case.class_name for case in listing.cases} == {
        "train-x": "benign", "val-x": "malignant",
    }  # fmt: skip
    (message,) = kinds(listing)["missing_image"]
    assert message.endswith("several images of that name: images/train/x.png, images/val/x.png")


def test_the_part_that_a_json_is_of_excludes_images_of_other_parts(tmp_path):
    draw(tmp_path / "images" / "val" / "x.png", 1)
    for part in ("train", "val"):
        drawn = {"x.png": [("benign", [FLAT if part == "val" else 2 * FLAT])]}
        coco(tmp_path / "annotations" / f"instances_{part}.json", drawn)
    listing = read_dataset(tmp_path)
    assert [len(case.masks) for case in listing.cases] == [1]
    (message,) = kinds(listing)["missing_image"]
    assert message.startswith("annotations/instances_train.json lists the image 'x.png'")


def test_a_name_with_a_folder_never_means_an_image_of_another_one(tmp_path):
    for patient in ("p1", "p2"):
        draw(tmp_path / "images" / patient / f"{patient}.png", len(patient))
    drawn = {name: [("benign", [FLAT])] for name in ("p2/p1.png", "C:\\all\\p2\\p2.png")}
    coco(tmp_path / "annotations.json", drawn)
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["p2"]
    assert "'p2/p1.png', which is not there" in kinds(listing)["missing_image"][0]
