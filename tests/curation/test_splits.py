from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from busi_monai.curation.splits import (
    Ratios,
    connected_groups,
    find_leaks,
    group_folds,
    split_groups,
    split_images,
    validation_share,
)
from busi_monai.errors import InputError


def grouped_cases(seed: int, classes: tuple[int, ...] = (130, 430, 200)) -> tuple[list, list]:
    """Classes in BUSI's proportions, in groups of one to nine."""
    rng = np.random.default_rng(seed)
    labels, groups = [], []
    for label, number in enumerate(classes):
        while labels.count(label) < number:
            size = min(int(rng.geometric(0.6)), 9, number - labels.count(label))
            groups += [f"{label}-{len(labels)}"] * size
            labels += [label] * size
    return labels, groups


@pytest.mark.parametrize("text", ["80/20", "80/10/20", "a/b/c", "", "0/50/50", "110/-5/-5"])
def test_ratios_refuse_what_is_no_division_of_100(text):
    with pytest.raises(InputError, match="add up to 100"):
        Ratios.parse(text)


def test_groups_connect_in_chains_through_ids_that_are_not_asked_for():
    groups = connected_groups(["a", "b", "c", "d"], [["a", "x"], ["x", "d"], ["c"]])
    assert groups == {"a": "a", "b": "b", "c": "c", "d": "a"}


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_keep_groups_whole_and_classes_in_proportion(folds, seed):
    labels, groups = grouped_cases(seed)
    fold_of = group_folds(labels, groups, folds, seed)
    assert all(len(set(fold_of[np.array(groups) == group])) == 1 for group in set(groups))
    for label, total in Counter(labels).items():
        counts = np.bincount(fold_of[np.array(labels) == label], minlength=folds)
        assert np.abs(counts - total / folds).max() <= max(4, 0.1 * total / folds)


def test_more_folds_than_the_rarest_class_has_groups_are_refused():
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    groups = ["a", "a", "b", "c", "d", "e", "f", "g", "h"]
    with pytest.raises(InputError, match=r"normal has only 2 groups.*at most 2"):
        group_folds(labels, groups, 3, 0)


@pytest.mark.parametrize("ratios", ["80/10/10", "70/15/15", "60/20/20", "70/0/30", "73/13/14"])
def test_parts_keep_groups_whole_and_come_close_to_their_shares(ratios):
    labels, groups = grouped_cases(2)
    wanted = Ratios.parse(ratios)
    parts = np.array(split_groups(labels, groups, wanted, 0))
    assert all(len(set(parts[np.array(groups) == group])) == 1 for group in set(groups))
    for label in range(3):
        of_class = parts[np.array(labels) == label]
        for part in ("train", "validation", "test"):
            share = 100 * np.mean(of_class == part)
            assert share == pytest.approx(getattr(wanted, part), abs=2.5)


def test_every_part_of_a_small_dataset_has_every_class():
    labels = [0] * 8 + [1] * 8 + [2] * 8
    parts = split_groups(labels, [str(i) for i in range(24)], Ratios(), 0)
    assert {(label, part) for label, part in zip(labels, parts, strict=True)} == {
        (label, part) for label in range(3) for part in ("train", "validation", "test")
    }


def test_a_class_with_too_few_groups_for_the_parts_is_refused():
    with pytest.raises(InputError, match="malignant has only 2 group"):
        split_groups([0, 0, 0, 2, 2], list("abcde"), Ratios(), 0)


def test_nothing_to_split_is_refused():
    with pytest.raises(InputError, match="no images are left"):
        split_groups([], [], Ratios(), 0)


@pytest.mark.parametrize("number", [24, 780])
def test_plain_split_is_stratified_and_of_the_wanted_size(number):
    labels = [0] * (number // 6) + [1] * (number // 2) + [2] * (number // 3)
    parts = split_images(labels, Ratios(), 0)
    counts = Counter(parts)
    assert counts["test"] == counts["validation"] == max(3, round(number / 10))
    assert {label for label, part in zip(labels, parts, strict=True) if part == "test"} == {0, 1, 2}
    assert parts == split_images(labels, Ratios(), 0) != split_images(labels, Ratios(), 1)


def test_plain_split_of_too_few_images_is_refused():
    with pytest.raises(InputError, match="too few"):
        split_images([0, 0, 0, 1], Ratios(), 0)


def test_validation_is_a_tenth_with_groups_whole():
    labels, groups = grouped_cases(4)
    chosen = validation_share(labels, groups, 0)
    assert np.mean(chosen) == pytest.approx(0.1, abs=0.01)
    assert not set(np.array(groups)[chosen]) & set(np.array(groups)[~chosen])


def test_leaks_are_evaluation_images_with_a_twin_in_training():
    parts = {"a": "train", "b": "test", "c": "validation", "d": "test", "e": "train"}
    leaks = find_leaks(parts, {}, [["a", "b", "c"], ["d", "gone"]])
    assert leaks.ids == {"validation": ["c"], "test": ["b"]}
    assert (leaks.count, leaks.total) == (2, 3)


def test_leaks_of_folds_are_counted_for_each():
    parts = dict.fromkeys("abcd", "train")
    leaks = find_leaks(parts, {"a": 0, "b": 1, "c": 1, "d": 10}, [["a", "b"], ["b", "c"]])
    assert list(leaks.ids) == ["fold 0", "fold 1", "fold 10"]
    assert leaks.as_dict()["parts"]["fold 1"] == {"images": 2, "ids": ["b", "c"]}
    assert leaks.count == 3
