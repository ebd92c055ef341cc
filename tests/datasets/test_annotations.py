from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

from busi_monai.cli.main import main
from busi_monai.curation import PrepareOptions, audit_dataset, load_datalist, prepare_dataset
from busi_monai.datasets import Listing, lesion_mask, read_dataset
from busi_monai.errors import InputError
from busi_monai.images import write_png

SIZE = (40, 60)  # height, width
BOX = (10, 5, 30, 25)  # left, top, right, bottom
CORNERS = [(10, 5), (30, 5), (30, 25), (10, 25)]
FLAT = [float(value) for corner in CORNERS for value in corner]


def picture(path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    write_png(path, draw.integers(0, 255, SIZE).astype(np.uint8))


def box_mask() -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


def runs(mask: np.ndarray) -> list[int]:
    values = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(values, prepend=0))
    return np.diff([0, *edges, len(values)]).tolist()


def kinds(listing: Listing) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in listing.problems:
        found.setdefault(problem.kind, []).append(f"{problem.file} {problem.message}")
    return found


def coco(
    path: Path,
    drawn: dict[str, list[tuple[str, Any]]],
    categories: tuple[str, ...] = ("benign", "malignant", "mass"),
) -> None:
    """Write a COCO file of (category, segmentation) by image."""
    numbers = {name: number for number, name in enumerate(categories, start=1)}
    images = [
        {"id": 100 + number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for number, name in enumerate(drawn)
    ]
    annotations = [
        {
            "image_id": image["id"],
            "category_id": numbers[category],
            "segmentation": segmentation,
            "iscrowd": int(isinstance(segmentation, dict)),
        }
        for image, entries in zip(images, drawn.values(), strict=True)
        for category, segmentation in entries
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    named = [{"id": number, "name": name} for name, number in numbers.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": named}
    path.write_text(json.dumps(content), encoding="utf-8")


def labelme(path: Path, shapes: list[dict[str, Any]], **further: Any) -> None:
    content = {"shapes": shapes, "imagePath": path.with_suffix(".png").name, **further}
    path.write_text(json.dumps(content), encoding="utf-8")


def as_coco(root: Path) -> None:
    picture(root / "images" / "x1.png", 1)
    coco(root / "annotations" / "instances_all.json", {"x1.png": [("benign", [FLAT])]})


def as_coco_runs(root: Path) -> None:
    picture(root / "x1.png", 1)
    counts = {"counts": runs(box_mask()), "size": list(SIZE)}
    coco(root / "annotations.json", {"x1.png": [("benign", counts)]})


def as_coco_packed(root: Path) -> None:
    picture(root / "x1.png", 1)
    # the box, packed by pycocotools 2.0.11
    counts = {"counts": "e<d0d00000000000000000000000000000000000000[U1", "size": list(SIZE)}
    coco(root / "_annotations.coco.json", {"x1.png": [("benign", counts)]})


def as_labelme(root: Path) -> None:
    picture(root / "x1.png", 1)
    labelme(
        root / "x1.json",
        [{"label": "Benign", "points": CORNERS, "shape_type": "polygon"}],
        imageHeight=SIZE[0],
        imageWidth=SIZE[1],
    )


def as_labelme_rectangle(root: Path) -> None:
    picture(root / "images" / "x1.png", 1)
    shape = {"label": "benign", "points": [CORNERS[0], CORNERS[2]], "shape_type": "rectangle"}
    labelme(root / "images" / "x1.json", [shape])


def as_yolo(root: Path) -> None:
    picture(root / "images" / "train" / "x1.png", 1)
    line = " ".join(f"{x / SIZE[1]} {y / SIZE[0]}" for x, y in CORNERS)
    label = root / "labels" / "train" / "x1.txt"
    label.parent.mkdir(parents=True)
    label.write_text(f"1 {line}\n", encoding="utf-8")
    (root / "data.yaml").write_text("names: [malignant, benign]\n", encoding="utf-8")


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
        picture(tmp_path / "in" / f"x{number}.png", number)
    other = [float(value) for x, y in CORNERS for value in (x + 25, y + 10)]
    drawn = {f"x{n}.png": [("benign" if n % 2 else "malignant", [FLAT, other])] for n in range(6)}
    coco(tmp_path / "in" / "annotations.json", drawn)
    summary = prepare_dataset(tmp_path / "in", tmp_path / "out", PrepareOptions(folds=2))
    assert summary.failures == [] and len(list((tmp_path / "out" / "labels").iterdir())) == 6
    (case, *_) = read_dataset(tmp_path / "in").cases
    assert lesion_mask(case).sum() == 2 * box_mask().sum()


def test_an_image_without_annotation_is_unlabelled_and_never_normal(tmp_path):
    for number in range(4):
        picture(tmp_path / "images" / f"x{number}.png", number)
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
        picture(tmp_path / f"{name}.png", len(name))
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
        picture(tmp_path / f"x{number}.png", number)
    benign, malignant = ("benign", [FLAT]), ("malignant", [FLAT])
    drawn = {"x0.png": [benign, malignant], "x1.png": [benign], "x2.png": [malignant]}
    coco(tmp_path / "annotations.json", drawn)
    (tmp_path / "labels.csv").write_text("image,label\nx1,malignant\n", encoding="utf-8")
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x2"]
    two, contradiction = kinds(listing)["unknown_class"]
    assert two.startswith("x0.png outlines of benign and malignant in one image")
    assert contradiction.startswith("x1.png outlined as benign, but malignant in labels.csv")


def test_polygons_beyond_the_border_are_named_and_cut_off(tmp_path):
    picture(tmp_path / "x.png", 1)
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
        picture(tmp_path / f"x{number}.png", number)
    drawn = {"x0.png": [("benign", segmentation)], "x1.png": [("benign", [FLAT])]}
    coco(tmp_path / "annotations.json", drawn)
    listing = read_dataset(tmp_path)
    (message,) = kinds(listing)["annotation"]
    assert "annotation 1" in message and reason in message
    assert [case.id for case in listing.cases] == ["x1"]


def test_another_size_than_stated_is_a_problem_of_the_audit(tmp_path):
    picture(tmp_path / "x1.png", 1)
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


@pytest.mark.parametrize("name", ["missing.png", "../outside.png", "/etc/hostname"])
def test_annotations_of_images_that_are_not_there_are_named(name, tmp_path):
    picture(tmp_path / "outside.png", 1)
    picture(tmp_path / "in" / "x.png", 1)
    drawn = {name: [("benign", [FLAT])], "x.png": [("benign", [FLAT])]}
    coco(tmp_path / "in" / "annotations.json", drawn)
    listing = read_dataset(tmp_path / "in")
    (message,) = kinds(listing)["missing_image"]
    assert f"lists the image {name!r}" in message
    assert [case.id for case in listing.cases] == ["x"]


def test_an_image_of_which_one_entry_cannot_be_used_is_left_out(tmp_path):
    as_yolo(tmp_path)
    picture(tmp_path / "images" / "benign_2.png", 2)
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
    picture(tmp_path / "x2.png", 2)
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


def test_split_folders_are_the_parts_of_the_protocol_file(tmp_path):
    number = 0
    for name in ("train", "valid", "test"):
        drawn = {}
        for _ in range(3):
            number += 1
            picture(tmp_path / "in" / name / f"x{number}.png", number)
            drawn[f"x{number}.png"] = [("benign" if number % 2 else "malignant", [FLAT])]
        coco(tmp_path / "in" / name / "_annotations.coco.json", drawn)
    summary = prepare_dataset(tmp_path / "in", tmp_path / "out", PrepareOptions(protocol="file"))
    assert summary.failures == []
    records = load_datalist(tmp_path / "out").records()
    parts = {record["id"]: record["part"] for record in records}
    assert [parts[f"x{n}"] for n in (1, 4, 7)] == ["training", "validation", "test"]
    assert len(parts) == 9


def test_links_of_one_file_keep_their_own_outlines(tmp_path):
    picture(tmp_path / "images" / "a.png", 1)
    (tmp_path / "images" / "b.png").hardlink_to(tmp_path / "images" / "a.png")
    other = [[40, 30, 50, 30, 50, 39, 40, 39]]
    drawn = {"a.png": [("benign", [FLAT])], "b.png": [("malignant", other)]}
    coco(tmp_path / "annotations.json", drawn)
    found = {case.id: lesion_mask(case).sum() for case in read_dataset(tmp_path).cases}
    assert found == {"a": 400, "b": 90}


def test_accents_compare_however_they_are_written(tmp_path):
    picture(tmp_path / "images" / f"{unicodedata.normalize('NFD', 'läsion')}.png", 1)
    name = unicodedata.normalize("NFC", "läsion.png")
    coco(tmp_path / "annotations.json", {name: [("benign", [FLAT])]})
    assert len(read_dataset(tmp_path).cases) == 1


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


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
        picture(tmp_path / f"x{number}.png", number)
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
    picture(tmp_path / "x2.png", 2)
    corners = [(*CORNERS[0], 1), *CORNERS[1:]]
    labelme(tmp_path / "x2.json", [{"label": "benign", "points": corners}])
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x1"]
    (message,) = kinds(listing)["annotation"]
    assert message.startswith("x2.json shape 1: the point [10, 5, 1]; expected x and y")


def test_outlines_of_other_categories_than_classes_do_not_count_beside_a_class(tmp_path):
    for number in range(3):
        picture(tmp_path / f"{'benign_' * (number > 1)}x{number}.png", number)
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
        picture(tmp_path / f"{name}.png", len(name))
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


def test_of_images_that_differ_in_suffix_the_annotated_one_is_taken(tmp_path):
    for name in ("a.png", "a.bmp", "b.png", "b.bmp"):
        picture(tmp_path / "in.png", len(name))
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
    picture(tmp_path / "x2.png", 2)
    shape = {"label": "benign", "points": CORNERS}
    labelme(tmp_path / "x2.json", [shape], imagePath="x1.png")
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["x1"]
    assert lesion_mask(listing.cases[0]).sum() == 400
    (message,) = kinds(listing)["annotation"]
    assert message.startswith("x2.json imagePath: lies beside x2.png, but annotates x1.png")


def test_equal_outlines_in_two_files_count_once(tmp_path):
    as_coco(tmp_path)
    folder = tmp_path / "annotations"
    (folder / "instances_train.json").write_bytes((folder / "instances_all.json").read_bytes())
    (case,) = read_dataset(tmp_path).cases
    assert len(case.masks) == 1


def test_the_name_of_a_json_tells_the_part_of_images_of_one_name(tmp_path):
    for part in ("train", "val"):
        picture(tmp_path / "images" / part / "x.png", len(part))
        drawn = {"x.png": [("benign" if part == "train" else "malignant", [FLAT])]}
        coco(tmp_path / "annotations" / f"instances_{part}2017.json", drawn)
    coco(tmp_path / "annotations" / "more.json", {"x.png": [("benign", [FLAT])]})
    listing = read_dataset(tmp_path)
    assert {case.id: case.class_name for case in listing.cases} == {
        "train-x": "benign", "val-x": "malignant",
    }  # fmt: skip
    (message,) = kinds(listing)["missing_image"]
    assert message.endswith("several images of that name: images/train/x.png, images/val/x.png")


def test_a_name_with_a_folder_never_means_an_image_of_another_one(tmp_path):
    for patient in ("p1", "p2"):
        picture(tmp_path / "images" / patient / f"{patient}.png", len(patient))
    drawn = {name: [("benign", [FLAT])] for name in ("p2/p1.png", "C:\\all\\p2\\p2.png")}
    coco(tmp_path / "annotations.json", drawn)
    listing = read_dataset(tmp_path)
    assert [case.id for case in listing.cases] == ["p2"]
    assert "'p2/p1.png', which is not there" in kinds(listing)["missing_image"][0]


def test_prepare_names_images_without_annotation_and_fails_for_entries_alone(tmp_path):
    for number in range(8):
        picture(tmp_path / "in" / f"x{number}.png", number)
    drawn = {f"x{n}.png": [("benign" if n % 2 else "malignant", [FLAT])] for n in range(6)}
    coco(tmp_path / "in" / "annotations.json", drawn)
    command = ["prepare", str(tmp_path / "in"), "--folds", "2", "--quiet", "--out"]
    result = CliRunner().invoke(main, [*command, str(tmp_path / "one")])
    note = "left out, without annotation and class, 2: x6.png, x7.png"
    assert (result.exit_code, result.stderr) == (0, f"Note: {note}\n")
    assert json.loads((tmp_path / "one" / "run.json").read_text(encoding="utf-8"))["notes"] == [
        note
    ]
    coco(tmp_path / "in" / "annotations.json", {**drawn, "x7.png": [("benign", [])]})
    result = CliRunner().invoke(main, [*command, str(tmp_path / "two")])
    assert result.exit_code == 1
    assert "Failed: annotations.json: annotation 7: no polygon and no run lengths" in result.stderr
