from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from busi_monai.curation import load_datalist, verify_prepared
from busi_monai.curation.datalist import Datalist
from busi_monai.errors import InputError
from busi_monai.io.images import (
    mask_sha256,
    pixel_sha256,
    read_image,
    read_mask,
    write_mask,
    write_png,
)


@pytest.fixture(scope="module")
def sound(defective, without_figures, tmp_path_factory) -> Path:
    """A prepared leakfree folder, not to be changed."""
    from busi_monai.curation import PrepareOptions, prepare_dataset

    out = tmp_path_factory.mktemp("sound") / "prepared"
    prepare_dataset(defective, out, PrepareOptions(ratios="60/20/20", multi_mask="split"))
    return out


@pytest.fixture
def prepared(sound, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(sound, tmp_path / "prepared")


def kinds(folder: Path) -> set[str]:
    report = verify_prepared(folder)
    assert report.ok == (not report.problems)
    assert sum(report.problems_of(check) for check in report.checks) == len(report.problems)
    return {problem.kind for problem in report.problems}


def rewrite(folder: Path, **changes) -> None:
    """Change a datalist as someone would who also puts its hash right."""
    old = load_datalist(folder)
    values = {name: getattr(old, name) for name in old.__dataclass_fields__}
    Datalist(**{**values, **changes}).save(folder / "datalist.json")


def plant(folder: Path, name: str, pixels: np.ndarray) -> None:
    """Add a copy of a training image to the test split, consistently."""
    datalist = load_datalist(folder)
    source = next(item for item in datalist.training if item["class_label"] == 1)
    write_png(folder / f"images/{name}.png", pixels)
    write_mask(folder / f"labels/{name}.png", np.ones(pixels.shape))
    planted = {
        **source,
        "id": name,
        "group": name,
        "image": f"images/{name}.png",
        "label": f"labels/{name}.png",
        "sha256": pixel_sha256(read_image(folder / f"images/{name}.png").pixels),
        "label_sha256": mask_sha256(np.ones(pixels.shape)),
    }
    rewrite(folder, test=[*datalist.test, planted])


def training_pixels(folder: Path) -> np.ndarray:
    source = next(i for i in load_datalist(folder).training if i["class_label"] == 1)
    return np.asarray(Image.open(folder / source["image"]).convert("L"))


def test_a_fresh_folder_is_sound(sound):
    report = verify_prepared(sound)
    assert report.ok
    assert report.leaks.count == 0
    assert not report.leaks_allowed
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True
    assert all(check.checked for check in report.checks)


def test_a_near_duplicate_in_test_is_found_in_the_pixels(prepared):
    pixels = training_pixels(prepared)
    copy = cv2.resize(pixels[2:, 1:], None, fx=1.05, fy=1.05, interpolation=cv2.INTER_AREA)
    plant(prepared, "stranger", np.clip(copy.astype(float) * 1.05 + 3, 0, 255).astype(np.uint8))
    assert kinds(prepared) == {"near_duplicate"}
    (problem,) = verify_prepared(prepared).problems
    assert (problem.id, problem.file) == ("stranger", "images/stranger.png")


def test_the_same_pixels_in_two_parts_are_found(prepared):
    plant(prepared, "stranger", training_pixels(prepared))
    assert kinds(prepared) == {"overlap", "near_duplicate"}


@pytest.mark.parametrize(
    ("protocol", "red"), [("curated", True), ("random", False), ("file", False)]
)
def test_a_leak_is_red_or_stated_by_protocol(prepared, protocol, red):
    plant(prepared, "stranger", training_pixels(prepared))
    rewrite(prepared, protocol=protocol)
    report = verify_prepared(prepared)
    assert report.leaks.ids["test"] == ["stranger"]
    assert report.ok is not red
    assert report.leaks_allowed is not red


def test_a_group_torn_apart_is_found(prepared):
    datalist = load_datalist(prepared)
    moved = {**datalist.test[0], "group": datalist.training[0]["group"]}
    rewrite(prepared, test=[moved, *datalist.test[1:]])
    assert kinds(prepared) == {"split_group"}


def test_leaks_between_folds_are_found(defective, prepare, tmp_path):
    folder = tmp_path / "folds"
    prepare(defective, folder, folds=3)
    assert verify_prepared(folder).ok
    items = [dict(item) for item in load_datalist(folder).training]
    groups: dict[str, list[dict]] = {}
    for item in items:
        groups.setdefault(item["group"], []).append(item)
    twin = next(members for members in groups.values() if len(members) > 1)[0]
    twin.update(fold=(twin["fold"] + 1) % 3, group=twin["id"] + " alone")
    rewrite(folder, training=items)
    assert "near_duplicate" in kinds(folder)


def test_a_datalist_changed_by_hand_is_red(prepared):
    path = prepared / "datalist.json"
    content = json.loads(path.read_text())
    content["test"].append(content["training"][0])
    path.write_text(json.dumps(content))
    assert kinds(prepared) >= {"datalist", "overlap"}


def one_item(folder: Path) -> dict:
    return next(item for item in load_datalist(folder).test if item["class_label"] == 1)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda image, label: image.unlink(), {"missing_image"}),
        (lambda image, label: image.write_bytes(b""), {"unreadable", "changed_file"}),
        (lambda image, label: label.unlink(), {"missing_label"}),
        (lambda image, label: label.write_bytes(b"no"), {"unreadable_label", "changed_file"}),
        (
            lambda image, label: write_mask(label, np.ones((9, 9))),
            {"size_mismatch", "changed_file"},
        ),
        (
            lambda image, label: write_png(label, np.full((96, 128), 1, np.uint8)),
            {"label_values", "changed_file"},
        ),
        (
            lambda image, label: write_mask(label, np.zeros((96, 128))),
            {"empty_mask", "changed_file"},
        ),
        (
            lambda image, label: write_png(image, np.full((96, 128), 7, np.uint8)),
            {"changed_pixels", "changed_file"},
        ),
        (
            lambda image, label: write_mask(label, np.eye(96, 128)),
            {"changed_mask", "changed_file"},
        ),
        (lambda image, label: shutil.copy(image, image.with_name("extra.png")), {"stray_file"}),
    ],
)
def test_spoiled_files_are_found(prepared, spoil, expected):
    item = one_item(prepared)
    spoil(prepared / item["image"], prepared / item["label"])
    assert kinds(prepared) == expected


def test_without_a_record_the_pixels_still_count(prepared):
    (prepared / "run.json").unlink()
    assert verify_prepared(prepared).ok
    item = one_item(prepared)
    write_mask(prepared / item["label"], ~read_mask(prepared / item["label"]))
    (problem,) = verify_prepared(prepared).problems
    assert (problem.id, problem.file, problem.kind) == (item["id"], item["label"], "changed_mask")
    assert "prepare the dataset again" in problem.message


def test_a_datalist_of_an_earlier_version_is_sound_and_says_what_it_lacks(
    sound, as_before_label_hashes, caplog
):
    earlier = as_before_label_hashes(sound)
    for _ in range(2):
        assert verify_prepared(earlier).ok
    (told,) = caplog.messages
    assert told.startswith(f"{earlier} has hashes of its images only, none of its masks")


def test_what_is_no_prepared_folder_is_refused(tmp_path, prepared):
    with pytest.raises(InputError, match="busi-monai prepare DATASET"):
        verify_prepared(tmp_path)
    rewrite(prepared, protocol="secret")
    with pytest.raises(InputError, match="unknown protocol 'secret'"):
        verify_prepared(prepared)


@pytest.mark.realdata
def test_real_busi_is_green_and_its_published_split_is_stated(busi_prepared, busi_published_split):
    assert verify_prepared(busi_prepared).ok
    report = verify_prepared(busi_published_split(1))
    assert report.ok
    assert report.leaks.count >= 35
