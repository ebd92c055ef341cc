from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from busi_monai.cases import CLASSES
from busi_monai.curation import (
    Audit,
    Datalist,
    PrepareOptions,
    load_datalist,
    prepare_dataset,
)
from busi_monai.errors import InputError
from busi_monai.io.images import read_mask, write_mask, write_png
from busi_monai.settings import InferenceSettings
from busi_monai.training import (
    cached_dataset,
    class_weights,
    datalist_hashes,
    datalist_provenance,
    load_items,
    training_items,
    training_sampler,
    training_transforms,
)
from busi_monai.transforms import (
    collate_items,
    prediction_postprocessing,
    prediction_preprocessing,
    training_augmentation,
)

OPERATING = InferenceSettings(image_size=(32, 32))


def labelled(counts: dict[int, int]) -> list[dict]:
    return [{"class_label": label} for label, count in counts.items() for _ in range(count)]


def test_all_classes_by_default(phantom_prepared: Path) -> None:
    items = load_items(phantom_prepared, "train")
    assert {item["class_label"] for item in items} == {0, 1, 2}
    for item in items:
        assert item["id"].startswith(CLASSES[item["class_label"]])


def test_a_binary_system_counts_in_its_own_classes(phantom_prepared: Path) -> None:
    items = load_items([phantom_prepared], "train", classes=["benign", "malignant"])
    assert {item["class_label"] for item in items} == {0, 1}
    for item in items:
        assert item["id"].startswith(["benign", "malignant"][item["class_label"]])


def test_without_a_class_head_every_case_is_taken(phantom_prepared: Path) -> None:
    every = load_items(phantom_prepared, "train")
    assert load_items(phantom_prepared, "train", classes=[]) == every


def test_a_split_without_the_classes_is_refused(
    phantom_prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from busi_monai.training import data

    normals = [{"id": "normal (1)", "class_label": 0}]
    monkeypatch.setattr(data, "load_split", lambda *args, **kwargs: normals)
    with pytest.raises(InputError, match="no case of benign, malignant"):
        load_items(phantom_prepared, "train", classes=["benign", "malignant"])


def test_class_weights_have_mean_1_over_the_items() -> None:
    items = labelled({0: 6, 1: 3, 2: 1})
    weights = class_weights(items, 3)
    assert sum(weights[item["class_label"]] for item in items) == pytest.approx(len(items))
    assert weights[0] * 6 == pytest.approx(weights[2] * 1)
    assert class_weights(labelled({0: 2}), 2) == [1.0, 0.0]


def test_a_balanced_epoch_sees_the_classes_equally_often() -> None:
    items = labelled({0: 1500, 1: 1200, 2: 300})
    torch.manual_seed(0)
    sampler = training_sampler(items, balance="sampling")
    drawn = Counter(items[index]["class_label"] for index in sampler)
    assert sum(drawn.values()) == 3000
    assert all(abs(drawn[label] - 1000) < 120 for label in range(3))


def test_a_plain_epoch_sees_every_item_once() -> None:
    sampler = training_sampler(labelled({0: 5, 1: 2}))
    assert sorted(sampler) == list(range(7))


def test_augmentation_repeats_the_rarer_classes_and_leaves_nothing_out() -> None:
    items = labelled({0: 7, 1: 3, 2: 1})
    sampler = training_sampler(items, balance="augmentation")
    torch.manual_seed(0)
    epochs = [list(sampler), list(sampler)]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert len(epoch) == len(sampler) == 21
        drawn = Counter(epoch)
        by_class = Counter(items[index]["class_label"] for index in epoch)
        assert by_class == {0: 7, 1: 7, 2: 7}
        assert all(drawn[index] == 1 for index in range(7))
        assert sorted(drawn[index] for index in range(7, 10)) == [2, 2, 3]
        assert drawn[10] == 7


def test_an_unknown_balance_is_named() -> None:
    with pytest.raises(InputError, match="none, sampling, augmentation, got 'half'"):
        training_sampler(labelled({0: 5, 1: 2}), balance="half")


def test_one_case_is_too_few_to_train_on() -> None:
    with pytest.raises(InputError, match="at least 2"):
        training_sampler(labelled({0: 1}))


def test_the_disk_cache_gives_the_items_of_the_memory_cache(
    phantom_prepared: Path, tmp_path: Path
) -> None:
    items = load_items(phantom_prepared, "validation")
    preprocessing = prediction_preprocessing(OPERATING, with_label=True)
    postprocessing = prediction_postprocessing(OPERATING, preprocessing)
    memory = cached_dataset(items, preprocessing)
    cached_dataset(items, preprocessing, tmp_path)[0]
    disk = cached_dataset(items, preprocessing, tmp_path)
    for one, other in zip(memory, disk, strict=True):
        assert one.keys() == other.keys()
        assert torch.equal(one["image"].as_tensor(), other["image"].as_tensor())
        assert torch.equal(torch.as_tensor(one["label"]), torch.as_tensor(other["label"]))
        logits = {"seg": one["image"].as_tensor() - 0.3, "cls": torch.zeros(3)}
        ours, theirs = (postprocessing({**item, **logits}) for item in (one, other))
        assert ours["pred"].shape == ours["native_label"].shape[1:] == (96, 128)
        assert torch.equal(ours["pred"], theirs["pred"])
    assert len(list(tmp_path.iterdir())) == len(items)


def test_corrected_masks_are_not_taken_from_an_earlier_cache(
    phantom_busi: Path, corrected_busi: Path, tmp_path: Path
) -> None:
    transform = prediction_preprocessing(OPERATING, with_label=True)
    masks = []
    for dataset in (phantom_busi, corrected_busi):
        prepare_dataset(dataset, tmp_path / "out", PrepareOptions(overwrite=True))
        items = load_items(tmp_path / "out", "train", classes=["benign", "malignant"])
        disk = cached_dataset(items, transform, tmp_path / "cache")
        masks.append([torch.as_tensor(item["label"]) for item in disk])
        memory = [torch.as_tensor(item["label"]) for item in cached_dataset(items, transform)]
        assert all(torch.equal(one, other) for one, other in zip(masks[-1], memory, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(*masks, strict=True))


@pytest.mark.parametrize("cache", ["cache", None])
def test_a_mask_file_that_was_edited_is_refused_and_never_taken_from_the_cache(
    phantom_prepared: Path, tmp_path: Path, cache: str | None
) -> None:
    copy = shutil.copytree(phantom_prepared, tmp_path / "copy")
    transform = prediction_preprocessing(OPERATING, with_label=True)
    item = load_items(copy, "validation")[0]
    place = None if cache is None else tmp_path / cache
    cached_dataset([item], transform, place)[0]
    before = Path(item["label"]).stat()
    write_mask(item["label"], ~read_mask(item["label"]))
    os.utime(item["label"], ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RuntimeError) as caught:
        cached_dataset([item], transform, place)[0]
    told = str(caught.value.__cause__)
    assert item["label"] in told and "prepare it again; busi-monai verify lists" in told


def test_an_image_file_that_was_edited_is_read_anew(phantom_prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(phantom_prepared, tmp_path / "copy")
    item = load_items(copy, "validation")[0]
    transform = prediction_preprocessing(OPERATING, with_label=True)
    before = cached_dataset([item], transform, tmp_path / "cache")[0]["image"]
    write_png(item["image"], np.zeros((96, 128), dtype=np.uint8))
    after = cached_dataset([item], transform, tmp_path / "cache")[0]["image"]
    assert torch.as_tensor(before).any() and not torch.as_tensor(after).any()


def test_a_datalist_of_an_earlier_version_trains_and_is_noted_once(
    phantom_prepared: Path, as_before_label_hashes: Callable[[Path], Path], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    earlier = as_before_label_hashes(phantom_prepared)
    for _ in range(2):
        found = datalist_hashes(earlier)
    assert found.by_name == {
        "datalist_sha256": [load_datalist(phantom_prepared).sha256],
        "labels_sha256": [None],
    }
    (told,) = caplog.messages
    assert told.startswith(f"{earlier} has hashes of its images only")
    items = load_items(earlier, "validation")
    assert {item["label_sha256"] for item in items} == {None}
    transform = prediction_preprocessing(OPERATING, with_label=True)
    masks = []
    for _ in range(2):
        write_mask(items[0]["label"], ~read_mask(items[0]["label"]))
        masks.append(cached_dataset(items, transform, tmp_path / "cache")[0]["native_label"])
    assert not torch.equal(*map(torch.as_tensor, masks))


def test_other_options_are_other_files(phantom_prepared: Path, tmp_path: Path) -> None:
    items = load_items(phantom_prepared, "validation")
    for size in (32, 48):
        settings = InferenceSettings(image_size=(size, size))
        item = cached_dataset(items, prediction_preprocessing(settings), tmp_path)[0]
        assert item["image"].shape == (1, size, size)


@pytest.mark.parametrize("disk", [False, True])
def test_augmentation_is_drawn_anew_from_either_cache(
    phantom_prepared: Path, tmp_path: Path, disk: bool
) -> None:
    items = load_items(phantom_prepared, "validation")
    preprocessing = prediction_preprocessing(OPERATING, with_label=True)
    transform = training_transforms(preprocessing, training_augmentation(OPERATING))
    transform.set_random_state(0)  # of 400 draws of two, one is of two images left as they are
    dataset = cached_dataset(items, transform, tmp_path if disk else None)
    # a fresh item and cached ones in one batch
    batch = collate_items([dataset[0], dataset[0], dataset[0]])
    assert batch["image"].shape == (3, 1, 32, 32)
    assert not torch.equal(batch["image"][0], batch["image"][1])


def test_provenance_names_protocol_and_hash(phantom_prepared: Path) -> None:
    datalist = load_datalist(phantom_prepared)
    assert datalist_provenance(phantom_prepared, "test", fold=None) == {
        "protocol": ["leakfree"],
        "datalist_sha256": [datalist.sha256],
        "labels_sha256": [datalist.labels_sha256],
        "split": "test",
        "fold": None,
        "leaks": {"count": 0, "evaluation_images": len(datalist.test)},
    }


@pytest.mark.parametrize(
    ("split", "fold", "leaks"),
    [
        ("test", None, {"count": 2, "evaluation_images": 5}),
        ("reported", None, {"count": 2, "evaluation_images": 5}),
        ("validation", None, {"count": 1, "evaluation_images": 4}),
        ("train", None, None),
        ("reported", 1, {"count": 3, "evaluation_images": 6}),
        ("validation", 1, None),
    ],
)
def test_provenance_states_the_leaks_of_the_split(
    monkeypatch: pytest.MonkeyPatch, split: str, fold: int | None, leaks: dict | None
) -> None:
    from busi_monai.training import data

    counts = {"validation": (4, 1), "test": (5, 2)} if fold is None else {"fold 1": (6, 3)}
    datalist = Datalist(
        "random",
        0,
        training=[{"fold": fold}],
        leaks={"parts": {k: {"images": n, "ids": ["x"] * m} for k, (n, m) in counts.items()}},
    )
    monkeypatch.setattr(data, "load_datalist", lambda path: datalist)
    assert datalist_provenance("prepared", split, fold=fold)["leaks"] == leaks
    # as configurations of version 0.1.0 call it
    assert datalist_provenance("prepared", part=split, fold=fold)["leaks"] == leaks


def hashes(items: list[dict]) -> set[str]:
    return {item["sha256"] for item in items}


def leaking_copy(folder: Path, source: Path, part: str, out: Path) -> Path:
    """A copy of a prepared dataset that trains on an image of another's part, under a new name."""
    out = shutil.copytree(folder, out)
    stolen = getattr(load_datalist(source), part)[0]
    paths = {key: f"{stolen[key].split('/')[0]}/borrowed.png" for key in ("image", "label")}
    for key, path in paths.items():
        shutil.copyfile(source / stolen[key], out / path)
    datalist = load_datalist(out)
    entry = {**datalist.training[0], **paths, "id": "borrowed", "sha256": stolen["sha256"]}
    replace(datalist, training=[*datalist.training, entry]).save(out / "datalist.json")
    return out


def test_without_extra_datasets_it_is_the_split_train(phantom_prepared: Path) -> None:
    for nothing in (None, []):
        items = training_items(phantom_prepared, extra=nothing)
        assert items == load_items(phantom_prepared, "train")


def test_extra_datasets_join_the_training_and_nothing_else(
    phantom_prepared: Path, other_prepared: Path
) -> None:
    own, others = (load_datalist(folder) for folder in (phantom_prepared, other_prepared))
    for extra in (other_prepared, [str(other_prepared)]):
        items = training_items([phantom_prepared], extra=extra)
        assert len(items) == len(own.training) + len(others.training)
        assert hashes(items) == hashes([*own.training, *others.training])
        assert len({item["id"] for item in items}) == len(items)
    left_out = hashes([*others.validation, *others.test])
    assert left_out and not left_out & hashes(items)
    joined = Counter(item["class_label"] for item in items)
    expected = Counter(item["class_label"] for item in [*own.training, *others.training])
    assert joined == expected
    assert class_weights(items, 3) == pytest.approx(
        [len(items) / (3 * expected[label]) for label in range(3)]
    )


def test_a_class_without_a_training_image_is_named(
    phantom_prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datalist = load_datalist(phantom_prepared)
    lesions = [item for item in datalist.training if item["class_label"] > 0]
    replace(datalist, training=lesions).save(tmp_path / "datalist.json")
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to(phantom_prepared / name)

    training_items(phantom_prepared)
    training_items(tmp_path, classes=["benign", "malignant"])
    training_items(tmp_path, classes=[])
    assert caplog.text == ""

    training_items(tmp_path)
    assert f"no image of the class normal among the {len(lesions)} to train on" in caplog.text
    assert "those that are there: benign, malignant" in caplog.text


def test_extra_datasets_give_the_systems_classes_only(
    phantom_prepared: Path, other_prepared: Path
) -> None:
    items = training_items(phantom_prepared, extra=other_prepared, classes=["benign", "malignant"])
    others = [item for item in load_datalist(other_prepared).training if item["class_label"]]
    assert hashes(others) < hashes(items)
    assert {item["class_label"] for item in items} == {0, 1}


def test_an_extra_dataset_with_folds_gives_what_the_same_fold_leaves(
    phantom_busi: Path, other_prepared: Path, tmp_path: Path
) -> None:
    own = prepare_dataset(phantom_busi, tmp_path / "own", PrepareOptions(folds=3)).out
    source = other_prepared.parent / "busi"
    extra = prepare_dataset(source, tmp_path / "extra", PrepareOptions(folds=2)).out
    items = training_items(own, extra=[extra, other_prepared], fold=1)
    parts = [(own, 1), (extra, 1), (other_prepared, None)]
    expected = [load_items(folder, "train", fold=fold) for folder, fold in parts]
    assert sorted(item["sha256"] for item in items) == sorted(
        item["sha256"] for part in expected for item in part
    )
    for_fold_2 = {item["sha256"] for item in training_items(own, extra=extra, fold=2)}
    everything = {item["sha256"] for item in load_datalist(extra).training}
    assert 0 < len(everything - for_fold_2) <= 3  # its validation tenth
    with pytest.raises(InputError, match="extra has 2 folds, and no fold is reported here"):
        training_items(other_prepared, extra=extra)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_extra_copy_of_an_image_that_is_held_out_is_refused(
    part: str, phantom_prepared: Path, other_prepared: Path, tmp_path: Path
) -> None:
    copy = leaking_copy(other_prepared, phantom_prepared, part, tmp_path / "leaking")
    with pytest.raises(InputError) as caught:
        training_items(phantom_prepared, extra=[other_prepared, copy])
    held_out = getattr(load_datalist(phantom_prepared), part)
    assert f"1 of the {len(held_out)} images of the split {part} of" in str(caught.value)
    assert f"training images of the extra dataset {copy}: {held_out[0]['id']}." in str(caught.value)


def test_an_extra_copy_of_an_image_in_the_reported_fold_is_refused(
    phantom_busi: Path, phantom_prepared: Path, other_prepared: Path, tmp_path: Path
) -> None:
    folds = prepare_dataset(phantom_busi, tmp_path / "folds", PrepareOptions(folds=3)).out
    copy = leaking_copy(other_prepared, phantom_prepared, "test", tmp_path / "leaking")
    stolen = load_datalist(phantom_prepared).test[0]["sha256"]
    places = {item["sha256"]: item["fold"] for item in load_datalist(folds).training}
    with pytest.raises(InputError, match=r"of the split reported of .*folds are among"):
        training_items(folds, extra=copy, fold=places[stolen])


def test_an_image_that_is_trained_on_twice_is_no_leak(
    phantom_prepared: Path, other_prepared: Path, tmp_path: Path
) -> None:
    copy = leaking_copy(other_prepared, phantom_prepared, "training", tmp_path / "twice")
    assert len(training_items(phantom_prepared, extra=copy)) == 1 + len(
        training_items(phantom_prepared, extra=other_prepared)
    )


def test_datalists_are_recorded_by_their_hashes(
    phantom_prepared: Path, other_prepared: Path
) -> None:
    own, other = (load_datalist(folder) for folder in (phantom_prepared, other_prepared))
    alone = {"datalist_sha256": [own.sha256], "labels_sha256": [own.labels_sha256]}
    assert datalist_hashes(phantom_prepared).by_name == alone
    both = datalist_hashes([phantom_prepared], str(other_prepared))
    assert both.by_name == alone | {
        "extra_datalist_sha256": [other.sha256],
        "extra_labels_sha256": [other.labels_sha256],
    }
    keys = ("id", "sha256", "label_sha256")
    assert both.labels == [{k: i[k] for k in keys} for i in (*own.records(), *other.records())]


@pytest.mark.realdata
def test_bus_bra_beside_busi_trains_on_no_image_that_is_scored(
    busi_folds: Path,
    bus_bra_folds_1_and_2: Path,
    audit_of: Callable[[Path], Audit],
    tmp_path: Path,
) -> None:
    source, busi = bus_bra_folds_1_and_2, busi_folds
    bus_bra = prepare_dataset(
        source, tmp_path / "bus_bra", PrepareOptions(folds=5), audit=audit_of(source)
    ).out
    scored: set[str] = set()
    for fold in range(5):
        trained = hashes(training_items(busi, extra=bus_bra, fold=fold))
        reported = hashes(load_items(busi, "reported", fold=fold))
        assert not trained & reported
        assert not trained & hashes(load_items(busi, "validation", fold=fold))
        own = hashes(load_items(busi, "train", fold=fold))
        others = hashes(load_items(bus_bra, "train", fold=fold))
        assert trained == own | others and len(own) > 400 and len(others) > 500
        assert not hashes(load_items(bus_bra, "reported", fold=fold)) & trained
        scored |= reported
    assert scored == hashes(list(load_datalist(busi).training))
