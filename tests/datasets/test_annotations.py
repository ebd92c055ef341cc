from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

from busi_monai.cli.main import main
from busi_monai.curation import PrepareOptions, audit_dataset, load_datalist, prepare_dataset
from busi_monai.datasets import lesion_mask, read_dataset
from tests.datasets.annotation_files import (
    CORNERS,
    FLAT,
    SIZE,
    as_coco,
    as_coco_packed,
    as_coco_runs,
    as_labelme,
    as_labelme_rectangle,
    as_yolo,
    box_mask,
    coco,
    draw,
    edit,
    kinds,
    runs,
)

WRITERS = (as_coco, as_coco_runs, as_coco_packed, as_labelme, as_labelme_rectangle, as_yolo)


@pytest.mark.parametrize("write", WRITERS)
def test_an_outline_becomes_the_mask_that_was_drawn(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    listing = read_dataset(tmp_path)
    (case,) = listing.cases
    assert (listing.dataset, case.id, case.class_name) == ("folder", "x1", "benign")
    assert listing.problems == []
    assert np.array_equal(lesion_mask(case), box_mask())
    assert audit_dataset(listing).problems == []


def test_outlines_of_one_image_are_united_and_prepared(tmp_path):
    for number in range(6):
        draw(tmp_path / "in" / f"x{number}.png", number)
    other = [float(value) for x, y in CORNERS for value in (x + 25, y + 10)]
    drawn = {f"x{n}.png": [("benign" if n % 2 else "malignant", [FLAT, other])] for n in range(6)}
    coco(tmp_path / "in" / "annotations.json", drawn)
    summary = prepare_dataset(tmp_path / "in", tmp_path / "out", PrepareOptions(folds=2))
    assert summary.failures == [] and len(list((tmp_path / "out" / "labels").iterdir())) == 6
    (case, *_) = read_dataset(tmp_path / "in").cases
    assert lesion_mask(case).sum() == 2 * box_mask().sum()


def test_an_image_without_annotation_is_unlabelled_and_never_normal(tmp_path):
    for number in range(4):
        draw(tmp_path / "images" / f"x{number}.png", number)
    coco(tmp_path / "annotations.json", {"x0.png": [("malignant", [FLAT])], "x1.png": []})
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x0"]
    assert len(kinds(listing)["unlabelled"]) == 3
    (tmp_path / "labels.csv").write_text("image,label\nx1,normal\nx2,benign\n", encoding="utf-8")
    listing = read_dataset(tmp_path)
    classes = {case.id: case.class_name for case in listing.cases}
    assert classes == {"x0": "malignant", "x1": "normal", "x2": "benign"}
    assert [line.split()[0] for line in kinds(listing)["unlabelled"]] == ["images/x3.png"]
    assert [line.split()[0] for line in kinds(listing)["missing_mask"]] == ["images/x2.png"]


def test_categories_that_are_no_classes_need_a_class_from_elsewhere(tmp_path):
    for name in ("x0", "x1", "benign_2"):
        draw(tmp_path / f"{name}.png", len(name))
    drawn = {f"{name}.png": [("mass", [FLAT])] for name in ("x0", "x1", "benign_2")}
    coco(tmp_path / "annotations.json", drawn)
    (tmp_path / "labels.csv").write_text("image,label\nx1.png,malignant\n", encoding="utf-8")
    listing = read_dataset(tmp_path)
    classes = {case.id: case.class_name for case in listing.cases}
    assert classes == {"x1": "malignant", "benign_2": "benign"}
    (message,) = kinds(listing)["unknown_class"]
    assert message.startswith("x0.png outlined as 'mass', which is no class")


def test_two_classes_in_one_image_are_named_and_left_out(tmp_path):
    for number in range(3):
        draw(tmp_path / f"x{number}.png", number)
    benign, malignant = ("benign", [FLAT]), ("malignant", [FLAT])
    drawn = {"x0.png": [benign, malignant], "x1.png": [benign], "x2.png": [malignant]}
    coco(tmp_path / "annotations.json", drawn)
    (tmp_path / "labels.csv").write_text("image,label\nx1,malignant\n", encoding="utf-8")
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x2"]
    two, contradiction = kinds(listing)["unknown_class"]
    assert two.startswith("x0.png outlines of benign and malignant in one image")
    assert contradiction.startswith("x1.png outlined as benign, but malignant in labels.csv")


def test_split_folders_are_the_parts_of_the_protocol_file(tmp_path):
    number = 0
    for name in ("train", "valid", "test"):
        drawn = {}
        for _ in range(3):
            number += 1
            draw(tmp_path / "in" / name / f"x{number}.png", number)
            drawn[f"x{number}.png"] = [("benign" if number % 2 else "malignant", [FLAT])]
        coco(tmp_path / "in" / name / "_annotations.coco.json", drawn)
    summary = prepare_dataset(tmp_path / "in", tmp_path / "out", PrepareOptions(protocol="file"))
    assert summary.failures == []
    records = load_datalist(tmp_path / "out").records()
    parts = {record["id"]: record["split"] for record in records}
    assert [parts[f"x{n}"] for n in (1, 4, 7)] == ["train", "validation", "test"]
    assert len(parts) == 9


def test_outlines_of_other_categories_than_classes_do_not_count_beside_a_class(tmp_path):
    for number in range(3):
        draw(tmp_path / f"{'benign_' * (number > 1)}x{number}.png", number)
    rib = ("rib", [[0, 0, 50, 0, 50, 4, 0, 4]])
    drawn = {
        "x0.png": [("malignant", [FLAT]), rib],
        "x1.png": [("malignant", [FLAT]), ("rib", [])],
        "benign_x2.png": [("mass", [FLAT]), rib],
    }
    coco(tmp_path / "annotations.json", drawn, ("malignant", "mass", "rib"))
    listing = read_dataset(tmp_path)
    found = {case.id: lesion_mask(case).sum() for case in listing.cases}
    assert found == {"x0": 400, "x1": 400, "benign_x2": 600}
    assert kinds(listing)["annotation"] == [
        "annotations.json annotation 2 is of 'rib', which is no class, and was left out",
        "annotations.json annotation 4 is of 'rib', which is no class, and was left out",
    ]


def test_a_normal_with_an_outline_is_refused(tmp_path):
    for name in ("x0", "x1", "x2", "x3", "normal_4"):
        draw(tmp_path / f"{name}.png", len(name))
    background = {"counts": [SIZE[0] * SIZE[1]], "size": list(SIZE)}
    drawn = {
        "x0.png": [("mass", [FLAT])],
        "x1.png": [("normal", [FLAT])],
        "x2.png": [("normal", background)],
        "x3.png": [("benign", [FLAT])],
        "normal_4.png": [("mass", [FLAT])],
    }
    coco(tmp_path / "annotations.json", drawn, ("mass", "normal", "benign"))
    (tmp_path / "labels.csv").write_text("image,label\nx0,normal\n", encoding="utf-8")
    listing = read_dataset(tmp_path)
    assert {case.id: case.class_name for case in listing.cases} == {"x2": "normal", "x3": "benign"}
    assert kinds(listing)["unknown_class"] == [
        "normal_4.png normal in its name, but outlined in annotations.json, annotation 5; mend one "
        "of them",
        "x0.png normal in labels.csv, but outlined in annotations.json, annotation 1; mend one of "
        "them",
        "x1.png normal in its category, but outlined in annotations.json, annotation 2; mend one "
        "of them",
    ]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("stated", ["stored", "turned", "none"])
def test_on_turned_images_the_stated_size_tells_what_was_drawn_on(orientation, stated, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(box_mask().astype(np.uint8) * 255)
    image.save(tmp_path / "x1.png", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "x1.png"))) > 0
    mask = upright if stated == "turned" else box_mask()
    counts = {"counts": runs(mask), "size": list(mask.shape)}
    coco(tmp_path / "annotations.json", {"x1.png": [("benign", counts)]})
    if stated == "none":
        as_polygon = {"segmentation": [FLAT], "image_id": 100, "category_id": 1, "id": 1}
        image = {"id": 100, "file_name": "x1.png"}
        edit(
            tmp_path / "annotations.json",
            lambda content: content.update(images=[image], annotations=[as_polygon]),
        )
    listing = read_dataset(tmp_path)
    if orientation >= 5 and stated != "none":
        assert np.array_equal(lesion_mask(listing.cases[0]), upright)
        return
    (problem,) = audit_dataset(listing).failures
    assert (problem.kind, problem.file) == ("annotation", "annotations.json")
    assert f"EXIF turns x1.png (orientation {orientation})" in problem.message
    assert "save it upright without EXIF and annotate it again" in problem.message


def test_equal_outlines_in_two_files_count_once(tmp_path):
    as_coco(tmp_path)
    folder = tmp_path / "annotations"
    (folder / "instances_train.json").write_bytes((folder / "instances_all.json").read_bytes())
    (case,) = read_dataset(tmp_path).cases
    assert len(case.masks) == 1


def test_prepare_names_images_without_annotation_and_fails_for_entries_alone(tmp_path):
    for number in range(14):
        draw(tmp_path / "in" / f"x{number}.png", number)
    drawn = {f"x{n}.png": [("benign" if n % 2 else "malignant", [FLAT])] for n in range(6)}
    coco(tmp_path / "in" / "annotations.json", drawn)
    command = ["prepare", str(tmp_path / "in"), "--folds", "2", "--quiet", "--out"]
    result = CliRunner().invoke(main, [*command, str(tmp_path / "one")])
    assert result.exit_code == 0
    notes = json.loads((tmp_path / "one" / "run.json").read_text(encoding="utf-8"))["notes"]
    assert result.stderr == "".join(f"Note: {note}\n" for note in notes)
    assert [note.split(":")[0] for note in notes[:5]] == [f"x{n}.png" for n in range(6, 11)]
    assert all("no annotation, which need not mean normal" in note for note in notes[:5])
    assert notes[5:] == ["unlabelled: 3 more files, all of them in audit.json"]
    coco(tmp_path / "in" / "annotations.json", {**drawn, "x7.png": [("benign", [])]})
    result = CliRunner().invoke(main, [*command, str(tmp_path / "two")])
    assert result.exit_code == 1
    assert "Failed: annotations.json: annotation 7: no polygon and no run lengths" in result.stderr
