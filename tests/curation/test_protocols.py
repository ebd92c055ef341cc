from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.curation.protocols import PROTOCOLS, Candidate, PrepareOptions
from busi_monai.errors import InputError

# pairs of near-duplicates (a0, a1), …; the first pair of "x" carries two classes; y3 copies y0
CASES = [
    *(
        Candidate(f"{letter}{number}", label, f"{letter}{number}", group, group)
        for letter, label in (("x", 0), ("y", 1), ("z", 2))
        for number in range(20)
        for group in (f"{letter}{number // 2 * 2}",)
    ),
    Candidate("conflict", 2, "conflict", "x0", "x0"),
    Candidate("copy", 1, "y0", "y0", "y0"),
]
KNOWN = [case.id for case in CASES]
GROUP = {case.id: case.group for case in CASES}


def assign(name, options=None):
    return PROTOCOLS[name].assign(CASES, options or PrepareOptions())


def sides_of_groups(assignment):
    sides = assignment.folds or assignment.splits
    found = {}
    for name, side in sides.items():
        found.setdefault(GROUP[name], set()).add(side)
    return found.values()


def test_leakfree_is_the_default_and_leaves_conflicts_out():
    assert next(iter(PROTOCOLS)) == "leakfree"
    assignment = assign("leakfree")
    assert set(assignment.excluded) == {"x0", "x1", "conflict"}
    assert assignment.excluded["x0"].endswith("x0, x1, conflict")
    assert all(len(sides) == 1 for sides in sides_of_groups(assignment))
    assert set(assignment.splits) == set(KNOWN) - {"x0", "x1", "conflict"}


@pytest.mark.parametrize(
    ("other", "patient", "kept"),
    [(0, "p", True), (0, "q", False), (0, None, False), (2, "p", False)],
    ids=["no lesion in sight", "of another patient", "of nobody", "another lesion class"],
)
def test_frames_of_one_patient_with_and_without_the_lesion_are_kept(other, patient, kept):
    sweep = [
        Candidate("lesion", 1, "lesion", "sweep", "sweep", patient and "p"),
        Candidate("next", other, "next", "sweep", "sweep", patient),
    ]
    assignment = PROTOCOLS["leakfree"].assign([*CASES, *sweep], PrepareOptions(folds=5))
    assert ({"lesion", "next"} <= set(assignment.splits)) is kept
    assert {"lesion", "next"}.isdisjoint(assignment.excluded) is kept
    if kept:
        assert assignment.folds["lesion"] == assignment.folds["next"]


def test_leakfree_folds_keep_groups_whole():
    assignment = assign("leakfree", PrepareOptions(folds=5))
    assert set(assignment.splits.values()) == {"train"}
    assert set(assignment.folds.values()) == set(range(5))
    assert all(len(sides) == 1 for sides in sides_of_groups(assignment))


@pytest.mark.parametrize(("dedup", "dropped"), [("none", 0), ("exact", 1), ("phash", 32)])
def test_random_drops_duplicates_and_keeps_the_first(dedup, dropped):
    assignment = assign("random", PrepareOptions(dedup=dedup))
    assert len(assignment.excluded) == dropped
    assert {"x0", "y0", "z0"} <= set(assignment.splits)
    if dropped:
        assert "which is kept" in assignment.excluded["copy"]


def test_random_tears_near_duplicates_apart():
    assert any(len(sides) > 1 for sides in sides_of_groups(assign("random")))
    assert any(
        len(sides) > 1 for sides in sides_of_groups(assign("random", PrepareOptions(folds=5)))
    )


def test_curated_keeps_the_listed_images_grouped(tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(case.id for case in CASES[10:60]))
    assignment = assign("curated", PrepareOptions(ids=ids, ratios="60/20/20"))
    assert set(assignment.splits) == {case.id for case in CASES[10:60]}
    assert set(assignment.excluded.values()) == {"not in the id list"}
    assert all(len(sides) == 1 for sides in sides_of_groups(assignment))


def write_lists(folder: Path, **lists: str) -> dict[str, Path]:
    paths = {}
    for part, words in lists.items():
        paths[part] = folder / f"{part}.txt"
        paths[part].write_text("\n".join(words.split()))
    return paths


def test_file_takes_the_lists_as_they_are(tmp_path):
    lists = write_lists(tmp_path, train_list="x0 y0", validation_list="x1", test_list="z0")
    assignment = assign("file", PrepareOptions(**lists))
    assert assignment.splits == {
        "x0": "train", "y0": "train", "x1": "validation", "z0": "test"
    }  # fmt: skip
    assert assignment.excluded["z1"] == "in none of the lists"


def test_file_refuses_overlaps(tmp_path):
    lists = write_lists(tmp_path, train_list="x0", validation_list="x0")
    with pytest.raises(InputError, match="x0 stands in the train list as well"):
        assign("file", PrepareOptions(**lists))


def test_external_is_all_test():
    assert set(assign("external").splits.values()) == {"test"}


@pytest.mark.parametrize(
    ("name", "options", "flag"),
    [
        ("external", PrepareOptions(folds=5), "--folds"),
        ("file", PrepareOptions(folds=5), "--folds"),
        ("leakfree", PrepareOptions(dedup="exact"), "--dedup"),
        ("random", PrepareOptions(ids=Path("ids.txt")), "--ids"),
        ("leakfree", PrepareOptions(test_list=Path("t.txt")), "--train-list"),
    ],
)
def test_options_that_would_be_ignored_are_refused(name, options, flag):
    with pytest.raises(InputError, match=f"{flag}.*not for the protocol {name}"):
        PROTOCOLS[name].check_options(options)
