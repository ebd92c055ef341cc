from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from busi_monai.cases import CLASSES
from busi_monai.curation import Datalist, find_split, load_datalist, load_split, shipped_splits
from busi_monai.errors import InputError


def item(
    name: str, class_label: int, *, group: str = "", fold: int | None = None, **changes
) -> dict:
    return {
        "id": name,
        "image": f"images/{name}.png",
        "label": f"labels/{name}.png",
        "class_label": class_label,
        "group": group or name,
        "fold": fold,
        "dataset": "busi",
        "sha256": "0" * 64,
        "spacing_mm": None,
        "meta": {},
        **changes,
    }


NO_LEAKS = {"count": 0, "evaluation_images": 0, "ids": [], "parts": {}}


def write(folder: Path, **parts: list[dict]) -> Path:
    """A prepared folder with the files that its datalist names; loading never opens them."""
    datalist = Datalist("leakfree", 0, leaks=NO_LEAKS, **parts)
    for entry in datalist.records():
        for path in (entry["image"], entry["label"] or entry["image"]):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
    datalist.save(folder / "datalist.json")
    return folder


def folded(folds: int = 3, groups: int = 30, size: int = 2) -> list[dict]:
    return [
        item(f"{CLASSES[label]} ({g}-{k})", label, group=f"{label}/{g}", fold=g % folds)
        for label in range(3)
        for g in range(groups)
        for k in range(size)
    ]


def test_a_datalist_comes_back_as_it_was_saved(tmp_path):
    spaced = item("ä [1]", 2, spacing_mm=[0.1, 0.2], meta={"birads": "4a"})
    folder = write(tmp_path, training=[item("b", 1)], test=[spaced])
    text = (folder / "datalist.json").read_text(encoding="utf-8")
    loaded = load_datalist(folder)
    assert loaded == load_datalist(folder / "datalist.json")
    assert loaded.test == [spaced]
    assert [record["split"] for record in loaded.records()] == ["train", "test"]
    assert json.loads(text)["sha256"] == loaded.sha256
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text(encoding="utf-8") == text


def test_the_hash_covers_the_content_and_not_itself():
    one = Datalist("leakfree", 0, training=[item("a", 1)])
    assert one.sha256 == Datalist("leakfree", 0, training=[item("a", 1)]).sha256
    assert one.sha256 != Datalist("leakfree", 1, training=[item("a", 1)]).sha256
    assert one.sha256 != Datalist("leakfree", 0, test=[item("a", 1)]).sha256


def test_monai_reads_it(tmp_path):
    from monai.data import load_decathlon_datalist

    folder = write(tmp_path, training=[item("benign (1)", 1), item("benign (2)", 1, label=None)])
    first, second = load_decathlon_datalist(
        folder / "datalist.json", is_segmentation=True, data_list_key="training"
    )
    assert first["image"] == str(folder / "images/benign (1).png")
    assert first["label"] == str(folder / "labels/benign (1).png")
    assert (first["id"], first["class_label"], first["group"]) == ("benign (1)", 1, "benign (1)")
    assert second["label"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 1: at schema_version"),
        ({"training": [{"id": "a"}]}, "at training/0"),
        ({"classes": ["benign", "normal", "malignant"]}, "at classes"),
        ({"seed": 1}, "was changed after it was written"),
    ],
)
def test_a_datalist_of_another_form_is_refused(tmp_path, change, message):
    path = write(tmp_path, training=[item("a", 1)]) / "datalist.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        load_datalist(path)


def test_missing_and_damaged_datalists_are_refused(tmp_path):
    with pytest.raises(InputError, match="busi-monai prepare DATASET"):
        load_datalist(tmp_path)
    (tmp_path / "datalist.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_datalist(tmp_path)


def test_an_id_cannot_be_saved_twice(tmp_path):
    with pytest.raises(InputError, match="ids a would stand in it twice"):
        write(tmp_path, training=[item("a", 1)], test=[item("a", 1)])


def test_parts_are_items_with_absolute_paths(tmp_path, monkeypatch):
    write(tmp_path / "d", training=[item("a", 1)], test=[item("b", 2, label=None)])
    monkeypatch.chdir(tmp_path)
    (train,) = load_split("d", "train")
    assert train == {
        "id": "a", "image": str(tmp_path / "d/images/a.png"), "class_label": 1, "group": "a",
        "label": str(tmp_path / "d/labels/a.png"), "dataset": "busi", "sha256": "0" * 64,
        "birads": None, "label_sha256": None,
    }  # fmt: skip
    (reported,) = load_split("d", "reported")
    assert "label" not in reported
    assert load_split("d", "test") == [reported]


def test_folds_divide_into_reported_validation_and_train(tmp_path):
    folder = write(tmp_path, training=folded())
    for fold in range(3):
        names = {
            part: {entry["id"] for entry in load_split(folder, part, fold=fold)}
            for part in ("reported", "validation", "train")
        }
        assert len(names["reported"] | names["validation"] | names["train"]) == 180
        assert [len(ids) for ids in names.values()] == [60, 12, 108]
        of_fold = {entry["id"] for entry in folded() if entry["fold"] == fold}
        assert names["reported"] == of_fold
        groups = {
            part: {entry["group"] for entry in load_split(folder, part, fold=fold)}
            for part in names
        }
        assert not groups["validation"] & groups["train"]
        classes = Counter(e["class_label"] for e in load_split(folder, "validation", fold=fold))
        assert classes == {0: 4, 1: 4, 2: 4}


def test_single_masks_of_an_image_only_train(tmp_path):
    extra = [
        {**entry, "id": f"{entry['id']}#1", "meta": {"part_of": entry["id"]}} for entry in folded()
    ]
    folder = write(tmp_path, training=folded() + extra)
    train = {entry["id"] for entry in load_split(folder, "train", fold=0)}
    for part in ("reported", "validation"):
        held_out = {entry["id"] for entry in load_split(folder, part, fold=0)}
        assert not any("#" in name for name in held_out)
        assert not train & {f"{name}#1" for name in held_out}
    assert len([name for name in train if "#" in name]) == len(train) / 2


def test_several_folders_are_joined_without_collisions(tmp_path):
    one = write(tmp_path / "one", test=[item("a", 1), item("b", 1)])
    two = write(tmp_path / "two", test=[item("a", 2)])
    joined = load_split([str(one), str(two)], "test")
    assert [entry["id"] for entry in joined] == ["one a", "b", "two a"]
    assert [entry["group"] for entry in joined] == ["one a", "b", "two a"]
    assert joined[2]["image"].startswith(str(two))


def test_a_dataset_of_fewer_folds_trains_and_validates_for_those_that_it_lacks(tmp_path):
    more = write(tmp_path / "more", training=folded(folds=3))
    fewer = write(tmp_path / "fewer", training=folded(folds=2))
    of = {
        part: Counter(Path(e["image"]).parts[-3] for e in load_split([more, fewer], part, fold=2))
        for part in ("reported", "validation", "train")
    }
    assert of == {
        "reported": {"more": 60},
        "validation": {"more": 12, "fewer": 18},
        "train": {"more": 108, "fewer": 162},
    }
    with pytest.raises(InputError, match=r"fold 3: .*more, .*fewer have the folds 0 to 2"):
        load_split([more, fewer], "train", fold=3)
    with pytest.raises(InputError, match=r"fold 2: .*fewer has the folds 0 to 1"):
        load_split(fewer, "train", fold=2)


@pytest.mark.parametrize(
    ("split", "fold", "message"),
    [
        ("train", None, "say which to report: 0 to 2"),
        ("reported", 3, "has the folds 0 to 2"),
        ("reported", -1, "has the folds 0 to 2"),
        ("test", 0, "take --split reported and a --fold"),
        ("training", 0, "expected one of train, validation, test, reported"),
    ],
)
def test_splits_that_do_not_exist_are_refused(tmp_path, split, fold, message):
    folder = write(tmp_path, training=folded())
    with pytest.raises(InputError, match=message):
        load_split(folder, split, fold=fold)


def test_empty_parts_needless_folds_and_lost_files_are_refused(tmp_path):
    folder = write(tmp_path, training=[item("a", 1)])
    with pytest.raises(InputError, match=r"the split test is empty .the dataset holds train 1"):
        load_split(folder, "test")
    with pytest.raises(InputError, match="has no folds"):
        load_split(folder, "train", fold=0)
    with pytest.raises(InputError, match="at least one prepared dataset"):
        load_split([], "train")
    (folder / "labels/a.png").unlink()
    with pytest.raises(InputError, match=r"labels/a.png is gone"):
        load_split(folder, "train")


def test_splits_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    own = tmp_path / "datalist.json"
    own.write_text("")
    assert find_split("busi-leakfree-v1") == shipped_splits()["busi-leakfree-v1"]
    assert find_split(own) == own
    with pytest.raises(InputError, match=r"no datalist 'v9'; expected a datalist\.json or .*v1"):
        find_split("v9")
