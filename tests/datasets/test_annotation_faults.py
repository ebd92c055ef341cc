from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from busi_monai.curation import audit_dataset, prepare_dataset
from busi_monai.datasets import lesion_mask, read_dataset
from busi_monai.errors import InputError
from tests.datasets.annotation_files import (
    CORNERS,
    FLAT,
    SIZE,
    as_coco,
    as_labelme,
    as_yolo,
    box_mask,
    coco,
    draw,
    edit,
    kinds,
    labelme,
)


def test_polygons_beyond_the_border_are_named_and_cut_off(tmp_path):
    draw(tmp_path / "x.png", 1)
    beyond = [50.0, 30.0, 80.0, 30.0, 80.0, 60.0, 50.0, 60.0]
    coco(tmp_path / "annotations.json", {"x.png": [("benign", [beyond])]})
    listing = read_dataset(tmp_path)
    (message,) = kinds(listing)["outside_image"]
    assert message == "annotations.json annotation 1 reaches beyond its image, and is cut off there"
    assert lesion_mask(listing.cases[0]).sum() == 100


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "no polygon and no run lengths; a box is no outline"),
        ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, "x"]], "'x' is no number"),
        ([[1, 2, 3, 4, 5, 1e999]], "inf is no place in an image"),
        ({"counts": [5, 5], "size": [40, 60]}, "run lengths fill 10 pixels, expected 60×40"),
        ({"counts": {}, "size": [40, 60]}, "run lengths fill 0 pixels"),
        ({"counts": "12 3", "size": [40, 60]}, "none of COCO's letters"),
    ],
)
def test_entries_that_are_no_outline_are_named(segmentation, reason, tmp_path):
    for number in range(2):
        draw(tmp_path / f"x{number}.png", number)
    drawn = {"x0.png": [("benign", segmentation)], "x1.png": [("benign", [FLAT])]}
    coco(tmp_path / "annotations.json", drawn)
    listing = read_dataset(tmp_path)
    (message,) = kinds(listing)["annotation"]
    assert "annotation 1" in message and reason in message
    assert [case.id for case in listing.cases] == ["x1"]


def test_another_size_than_stated_is_a_problem_of_the_audit(tmp_path):
    draw(tmp_path / "x1.png", 1)
    labelme(
        tmp_path / "x1.json",
        [{"label": "benign", "points": CORNERS}],
        imageHeight=SIZE[0] * 2,
        imageWidth=SIZE[1] * 2,
    )
    (problem,) = audit_dataset(read_dataset(tmp_path)).failures
    assert (problem.file, problem.kind) == ("x1.json", "size_mismatch")
    assert "drawn on 120×80 pixels, but the image has 60×40" in problem.message
    with pytest.raises(InputError, match="drawn on 120×80 pixels"):
        prepare_dataset(tmp_path, tmp_path.with_name("out"))


def test_an_image_of_which_one_entry_cannot_be_used_is_left_out(tmp_path):
    as_yolo(tmp_path)
    draw(tmp_path / "images" / "benign_2.png", 2)
    (tmp_path / "labels" / "benign_2.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    label = tmp_path / "labels" / "train" / "x1.txt"
    label.write_text(label.read_text() + "0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["benign_2"]
    (message,) = kinds(listing)["annotation"]
    assert message.startswith("labels/train/x1.txt line 2: a box is no outline")
    assert message.endswith("the image x1 is left out")


@pytest.mark.parametrize("text", ["{", 20000 * "[", '{"shapes": [NaN'])
def test_damaged_json_is_named_once_and_the_rest_is_read(text, tmp_path):
    as_labelme(tmp_path)
    draw(tmp_path / "x2.png", 2)
    (tmp_path / "x2.json").write_text(text, encoding="utf-8")
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x1"]
    (problem,) = [one for one in listing.problems if one.file == "x2.json"]
    assert problem.kind == "annotation" and "not readable as JSON" in problem.message


def test_stray_files_beside_annotations_are_named(tmp_path):
    as_coco(tmp_path)
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "images" / "x1.xml").write_text("<a/>")
    files = [line.split()[0] for line in kinds(read_dataset(tmp_path))["stray_file"]]
    assert sorted(files) == ["README.txt", "images/x1.xml"]


def unhashable_ids(content: Any) -> None:
    content["images"][0]["id"] = [1]
    content["annotations"][0]["image_id"] = [1]
    content["annotations"][0]["category_id"] = {}


def equal_ids(content: Any) -> None:
    content["images"].append({**content["images"][0], "file_name": "x2.png"})


def long_name(content: Any) -> None:
    content["images"][0]["file_name"] = 300 * "a" + ".png"


def no_lists(content: Any) -> None:
    content["images"][0] = None
    content["categories"].append("benign")


@pytest.mark.parametrize("damage", [unhashable_ids, equal_ids, long_name, no_lists])
def test_damaged_entries_of_coco_are_named_and_the_rest_is_read(damage, tmp_path):
    for number in range(3):
        draw(tmp_path / f"x{number}.png", number)
    benign = ("benign", [FLAT])
    drawn = {"x0.png": [benign], "x1.png": [benign], "x2.png": []}
    coco(tmp_path / "annotations.json", drawn)
    edit(tmp_path / "annotations.json", damage)
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x1"]
    assert {"annotation", "missing_image"} & kinds(listing).keys()


def test_a_flat_list_of_numbers_is_one_polygon_and_ids_may_be_text(tmp_path):
    as_coco(tmp_path)

    def flatten(content: Any) -> None:
        content["annotations"][0].update(segmentation=FLAT, image_id="100", category_id=1.0)

    edit(tmp_path / "annotations" / "instances_all.json", flatten)
    (case,) = read_dataset(tmp_path).cases
    assert np.array_equal(lesion_mask(case), box_mask())


def test_points_of_labelme_need_two_numbers(tmp_path):
    as_labelme(tmp_path)
    draw(tmp_path / "x2.png", 2)
    corners = [(*CORNERS[0], 1), *CORNERS[1:]]
    labelme(tmp_path / "x2.json", [{"label": "benign", "points": corners}])
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x1"]
    (message,) = kinds(listing)["annotation"]
    assert message.startswith("x2.json shape 1: the point [10, 5, 1]; expected x and y")
