"""What a network has seen, by content, and the parts that it must not have."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from busi_monai.bundle.training_images import (
    knows_training_images,
    own_training_images,
    refuse_held_out_images,
    write_training_images,
)
from busi_monai.curation import PrepareOptions, load_datalist, prepare_dataset
from busi_monai.errors import InputError
from busi_monai.files import read_json
from busi_monai.training import load_items, read_training_images, seen_in_training

ITEMS = [{"sha256": "a"}, {"sha256": "b"}, {"id": "without"}]


def test_a_run_of_its_own_lists_what_it_trains_on(tmp_path: Path) -> None:
    write_training_images(tmp_path, ITEMS)
    assert read_json(tmp_path / "training_images.json") == {"sha256": ["a", "b"]}
    assert read_training_images(tmp_path) == own_training_images(tmp_path) == {"a", "b"}
    assert knows_training_images(tmp_path)


def test_a_run_that_started_from_another_lists_both(tmp_path: Path) -> None:
    write_training_images(tmp_path, ITEMS, before={"b", "c"})
    assert read_training_images(tmp_path) == {"a", "b", "c"}
    assert own_training_images(tmp_path) == {"a", "b"}
    assert knows_training_images(tmp_path)
    assert seen_in_training(tmp_path, [{"sha256": "c"}, {"sha256": "d"}]) == 1


def test_what_is_not_known_is_not_called_unseen(tmp_path: Path) -> None:
    write_training_images(tmp_path, ITEMS, before=(), complete=False)
    assert read_training_images(tmp_path) == {"a", "b"}
    assert not knows_training_images(tmp_path)
    assert seen_in_training(tmp_path, [{"sha256": "d"}]) is None


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_image_that_is_held_out_is_refused(part: str, phantom_prepared: Path) -> None:
    items = getattr(load_datalist(phantom_prepared), part)
    seen = {item["sha256"] for item in items}
    with pytest.raises(InputError) as caught:
        refuse_held_out_images(seen, phantom_prepared, fold=None, whose="the images of a run")
    told = str(caught.value)
    assert (
        f"{len(items)} of the {len(items)} images of the split {part} of {phantom_prepared}" in told
    )
    assert "are among the images of a run: " in told
    assert all(item["id"] in told for item in items[:5])


def test_images_that_are_trained_on_are_not_held_out(phantom_prepared: Path) -> None:
    seen = {item["sha256"] for item in load_datalist(phantom_prepared).training}
    refuse_held_out_images(seen, [phantom_prepared], fold=None, whose="these")
    refuse_held_out_images({"another"}, phantom_prepared, fold=None, whose="these")


def test_many_images_are_counted_and_five_named(phantom_prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(phantom_prepared, tmp_path / "copy")
    datalist = load_datalist(copy)
    whole = [*datalist.test, *datalist.training]
    replace(datalist, training=[], test=whole).save(copy / "datalist.json")
    with pytest.raises(
        InputError, match=rf"^{len(whole)} of .*: (\S+ \(\d+\), ){{4}}\S+ \(\d+\) and"
    ):
        refuse_held_out_images({item["sha256"] for item in whole}, copy, fold=None, whose="these")


def test_with_folds_validation_and_fold_are_held_out(phantom_busi: Path, tmp_path: Path) -> None:
    folds = prepare_dataset(phantom_busi, tmp_path / "folds", PrepareOptions(folds=3)).out
    parts = {
        name: {item["sha256"] for item in load_items(folds, name, fold=1)}
        for name in ("train", "validation", "reported")
    }
    refuse_held_out_images(parts["train"], folds, fold=1, whose="these")
    for part in ("validation", "reported"):
        with pytest.raises(InputError, match=f"the split {part}"):
            refuse_held_out_images(parts[part], folds, fold=1, whose="these")
    with pytest.raises(InputError, match="has 3 folds; say which"):
        refuse_held_out_images(parts["train"], folds, fold=None, whose="these")
