from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.curation import PrepareOptions, load_datalist, prepare_dataset
from busi_monai.curation.audit_report import Sample
from busi_monai.curation.show import choose_items, draw_charts, draw_sheet, sample_pairs
from busi_monai.errors import ImageReadError, InputError
from busi_monai.plots.palette import TRUE_OUTLINE


def outline(pixels: np.ndarray) -> np.ndarray:
    return np.abs(pixels.astype(int) - TRUE_OUTLINE).max(axis=-1) < 60


def test_the_outline_is_on_the_second_image_alone():
    mask = np.zeros((60, 90), dtype=bool)
    mask[20:40, 30:60] = True
    pixels = np.full((60, 90), 90, dtype=np.uint8)
    sheet = np.asarray(sample_pairs([Sample("benign (1)", "benign", pixels, mask)]))
    left, right = np.array_split(sheet, 2, axis=1)
    assert not outline(left).any()
    assert outline(right).any()
    # the image itself is as bright on both sides
    assert (left == 90).all(-1).sum() > (right == 90).all(-1).sum() > 0


def test_a_long_id_stays_within_its_pair():
    pixels = np.zeros((60, 90), dtype=np.uint8)
    plain = Sample("x", "normal", pixels)
    long = Sample("Ünïcode " * 40, "normal", pixels)
    both = np.asarray(sample_pairs([long, plain]))
    alone = np.asarray(sample_pairs([plain]))
    width = both.shape[1] // 2
    np.testing.assert_array_equal(both[:, -width:], alone[:, -width:])


def test_the_seed_decides_the_draw(phantom_prepared: Path):
    def drawn(seed: int) -> list[str]:
        return [item["id"] for item in choose_items(phantom_prepared, n=6, seed=seed)]

    assert drawn(1) == drawn(1)
    assert len(set(drawn(1))) == 6
    assert any(drawn(1) != drawn(seed) for seed in range(2, 5))


def test_class_and_part_narrow_the_draw(phantom_prepared: Path):
    found = choose_items(phantom_prepared, class_names=["benign"], split="train")
    listed = load_datalist(phantom_prepared).training
    assert [i["id"] for i in found] == [i["id"] for i in listed if i["class_label"] == 1]
    assert all(Path(item["image"]).is_file() for item in found)


def test_named_images_come_in_the_given_order(phantom_prepared: Path):
    ids = ["malignant (2)", "benign (1)", "malignant (2)"]
    assert [item["id"] for item in choose_items(phantom_prepared, ids=ids)] == ids[:2]


def test_an_unknown_id_names_the_nearest(phantom_prepared: Path):
    with pytest.raises(InputError, match=r"no image 'begnin \(3\)'; the nearest are 'benign \(3\)"):
        choose_items(phantom_prepared, ids=["begnin (3)"])
    with pytest.raises(InputError, match="leave class and split out"):
        choose_items(phantom_prepared, ids=["benign (3)"], split="train")


def test_folds_need_to_be_named(phantom_busi: Path, tmp_path: Path):
    prepare_dataset(phantom_busi, tmp_path / "folds", PrepareOptions(folds=3))
    with pytest.raises(InputError, match="say which to report"):
        choose_items(tmp_path / "folds", split="validation")
    reported = choose_items(tmp_path / "folds", split="reported", fold=1)
    assert {item["fold"] for item in reported} == {1}
    assert len(choose_items(tmp_path / "folds")) == 24


def test_an_empty_choice_says_what_there_is(phantom_busi: Path, tmp_path: Path):
    only = tmp_path / "only"
    shutil.copytree(phantom_busi / "benign", only / "benign")
    prepare_dataset(only, tmp_path / "out", PrepareOptions(protocol="external"))
    with pytest.raises(InputError, match=r"no image of normal.*benign 8"):
        choose_items(tmp_path / "out", class_names=["normal"])


def test_a_pdf_has_a_page_for_every_twelve(phantom_prepared: Path, tmp_path: Path):
    draw_sheet(choose_items(phantom_prepared, n=13), tmp_path / "sheet.pdf")
    content = (tmp_path / "sheet.pdf").read_bytes()
    assert content.startswith(b"%PDF") and b"/Count 2" in content


def test_a_png_shows_rows_of_three_pairs(phantom_prepared: Path, tmp_path: Path):
    items = choose_items(phantom_prepared, n=7)
    assert draw_sheet(items[:3], tmp_path / "three.png") == []
    draw_sheet(items, tmp_path / "seven.PNG")
    with Image.open(tmp_path / "three.png") as one, Image.open(tmp_path / "seven.PNG") as three:
        assert one.width == three.width
        assert one.height * 2 < three.height < one.height * 3


def test_another_suffix_and_a_file_that_is_there_are_refused(
    phantom_prepared: Path, tmp_path: Path
):
    items = choose_items(phantom_prepared, n=1)
    with pytest.raises(InputError, match=r"ends in \.png or \.pdf"):
        draw_sheet(items, tmp_path / "sheet.jpg")
    (tmp_path / "sheet.png").write_text("mine")
    with pytest.raises(InputError, match="not made by this command"):
        draw_sheet(items, tmp_path / "sheet.png", overwrite=True)
    assert (tmp_path / "sheet.png").read_text() == "mine"
    for name in ("drawn.png", "drawn.pdf"):
        draw_sheet(items, tmp_path / name)
        with pytest.raises(InputError, match="--overwrite"):
            draw_sheet(items, tmp_path / name)
        draw_sheet(items, tmp_path / name, overwrite=True)
    with pytest.raises(InputError, match=r"lies within images of .*a dataset"):
        draw_sheet(items, phantom_prepared / "images" / "sheet.png")


def test_a_damaged_image_is_left_out_and_told(phantom_prepared: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(phantom_prepared, copy)
    items = choose_items(copy, n=3)
    Path(items[1]["image"]).write_bytes(b"")
    ((file, reason),) = draw_sheet(items, tmp_path / "sheet.png")
    assert file == items[1]["image"] and "empty" in reason
    with pytest.raises(ImageReadError, match="no image could be read"):
        draw_sheet(items[1:2], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_charts_count_what_the_files_hold(phantom_prepared: Path, tmp_path: Path):
    items = choose_items(phantom_prepared)
    assert draw_charts(phantom_prepared, items, tmp_path / "charts") == []
    record = json.loads((tmp_path / "charts" / "run.json").read_text("utf-8"))
    assert record["counts"] == {"images": 24, "normal": 8, "benign": 8, "malignant": 8}
    masks = [np.asarray(Image.open(path)) for path in (phantom_prepared / "labels").glob("*.png")]
    lesion = sum(int((mask > 0).sum()) for mask in masks)
    assert record["pixels"]["lesion"] == lesion
    assert record["pixels"]["background"] == sum(mask.size for mask in masks) - lesion
    for name in ("classes", "lesion_pixels", "sizes"):
        with Image.open(tmp_path / "charts" / f"{name}.png") as drawn:
            assert drawn.width > 500


def test_an_image_split_by_masks_is_drawn_and_counted_once(tmp_path: Path):
    from busi_monai.phantoms import write_phantom_dataset

    source = write_phantom_dataset(
        tmp_path / "source", cases=12, seed=1, size=(64, 96), defects=True
    )
    prepare_dataset(source, tmp_path / "out", PrepareOptions(multi_mask="split"))
    listed = load_datalist(tmp_path / "out").records()
    parts = [item for item in listed if "part_of" in item["meta"]]
    assert parts
    found = {item["id"] for item in choose_items(tmp_path / "out")}
    assert found == {item["id"] for item in listed} - {item["id"] for item in parts}
    (named,) = choose_items(tmp_path / "out", ids=[parts[0]["id"]])
    assert named["id"] == parts[0]["id"]
