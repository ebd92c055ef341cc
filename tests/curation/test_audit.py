from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.curation import Audit, audit_dataset, write_audit
from busi_monai.datasets import read_dataset
from busi_monai.io.images import write_mask, write_png
from busi_monai.phantoms import planted_defects, write_phantom_dataset


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoilt") / "busi"
    return write_phantom_dataset(folder, cases=15, seed=4, size=(240, 320), defects=True)


@pytest.fixture(scope="module")
def audit(spoilt: Path) -> Audit:
    return audit_dataset(read_dataset(spoilt))


def kinds(audit: Audit) -> dict[str, str]:
    return {problem.id: problem.kind for problem in audit.problems}


def test_clean_phantoms_have_no_finding(phantom_busi):
    found = audit_dataset(read_dataset(phantom_busi)).as_dict()
    assert found["problems"] == []
    assert found["duplicate_groups"] == []
    assert found["class_conflicts"] == []
    assert not any(found["artefacts"].values())


def test_planted_near_duplicates_and_conflicts_are_found_alone(audit, spoilt):
    planted = planted_defects(spoilt)
    assert {frozenset(g) for g in audit.duplicates.groups} == {
        frozenset(pair) for pair in planted["near_duplicates"]
    }
    assert {frozenset(g) for g in audit.class_conflicts} == {
        frozenset(pair) for pair in planted["class_conflicts"]
    }


def test_masks_of_planted_copies_agree(audit):
    assert audit.mask_ious
    assert min(audit.mask_ious.values()) > 0.7
    assert audit.disagreeing_masks == []


def test_planted_files_are_reported(audit, spoilt):
    planted = planted_defects(spoilt)
    found = kinds(audit)
    assert audit.multi_mask == planted["multi_mask"]
    assert {found[case_id] for case_id in planted["truncated"]} == {"unreadable"}
    assert {found[case_id] for case_id in planted["size_mismatch"]} == {"size_mismatch"}
    assert [p.file for p in audit.problems if p.kind == "stray_file"] == planted["stray_files"]
    assert {p.id for p in audit.failures} == {*planted["truncated"], *planted["size_mismatch"]}


def test_planted_artefacts_are_flagged(audit, spoilt):
    planted = planted_defects(spoilt)
    assert audit.artefacts["colour"] == planted["colour"]
    assert set(audit.artefacts["text"]) <= set(planted["text"])
    assert len(audit.artefacts["text"]) >= len(planted["text"]) / 2


def test_artefacts_are_counted_by_class(audit):
    found = audit.as_dict()
    for kind, ids in audit.artefacts.items():
        classes = [audit.listing.case(id).class_name for id in ids]
        counts = {name: classes.count(name) for name in ("normal", "benign", "malignant")}
        assert found["artefact_classes"][kind] == counts
    assert any(found["artefact_classes"]["colour"].values())


def test_what_is_known_beforehand_is_reported_and_changes_nothing_else(small):
    listing = read_dataset(small)
    known = {"benign (1)": "axilla"}
    found, plain = (audit_dataset(listing, known=k).as_dict() for k in (known, None))
    assert found.pop("known") == [{"id": "benign (1)", "reason": "axilla"}]
    assert plain.pop("known") == []
    assert found == plain


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_phantom_dataset(tmp_path / "busi (1) ü", cases=6, seed=1, size=(64, 96))


def test_class_and_mask_that_contradict_are_reported(small):
    empty = np.zeros((64, 96), dtype=bool)
    write_mask(small / "benign" / "benign (1)_mask.png", empty)
    marked = empty.copy()
    marked[20:40, 30:60] = True
    write_mask(small / "normal" / "normal (1)_mask.png", marked)
    found = audit_dataset(read_dataset(small))
    assert kinds(found) == {"benign (1)": "empty_mask", "normal (1)": "normal_with_mask"}
    assert found.failures == []


def test_masks_of_other_values_and_inverted_ones_keep_a_file_from_being_used(small):
    mask = small / "benign" / "benign (1)_mask.png"
    with Image.open(mask) as image:
        lesion = np.asarray(image) > 0
    write_png(mask, lesion.astype(np.uint8) + 1)
    write_mask(small / "malignant" / "malignant (1)_mask.png", ~lesion)
    found = audit_dataset(read_dataset(small))
    assert kinds(found) == {"benign (1)": "mask_values", "malignant (1)": "inverted_mask"}
    assert "holds the values 1, 2, none of them 0" in found.failures[0].message
    assert found.failures[1].message.startswith("inverted? The lesion covers 9")
    assert {e.lesion_pixels for e in found.examinations if e.problems} == {None}


def test_damaged_mask_is_named(small):
    path = small / "malignant" / "malignant (1)_mask.png"
    path.write_bytes(path.read_bytes()[:60])
    (problem,) = audit_dataset(read_dataset(small)).failures
    assert problem.file == "malignant/malignant (1)_mask.png"
    assert problem.kind == "unreadable"
    assert problem.message.startswith("damaged or truncated")


def test_other_outline_of_one_image_disagrees(tmp_path):
    root = write_phantom_dataset(tmp_path / "busi", cases=12, seed=2, size=(240, 320))
    folder = root / "benign"
    shutil.copy(folder / "benign (1).png", folder / "benign (90).png")
    moved = np.zeros((240, 320), dtype=bool)
    moved[5:40, 5:60] = True
    write_mask(folder / "benign (90)_mask.png", moved)
    audit = audit_dataset(read_dataset(root))
    assert audit.duplicates.exact == [["benign (1)", "benign (90)"]]
    assert [(pair.a, pair.b) for pair in audit.disagreeing_masks] == [("benign (1)", "benign (90)")]
    assert audit.as_dict()["disagreeing_masks"][0]["iou"] < 0.3


def test_nothing_readable_still_gives_a_report(tmp_path):
    folder = tmp_path / "busi" / "benign"
    folder.mkdir(parents=True)
    (tmp_path / "busi" / "malignant").mkdir()
    (folder / "benign (1).png").write_bytes(b"")
    Image.new("1", (8, 8)).save(folder / "benign (1)_mask.png")
    audit = audit_dataset(read_dataset(tmp_path / "busi", "busi"))
    assert kinds(audit) == {"benign (1)": "unreadable"}
    write_audit(audit, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["images"] == 1


def test_the_number_of_threads_changes_nothing(audit, spoilt, monkeypatch):
    for threads in ("1", "4"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert audit_dataset(read_dataset(spoilt)).as_dict() == audit.as_dict()


def test_interrupt_is_passed_on(small):
    def interrupted(cases):
        yield cases[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit_dataset(read_dataset(small), progress=interrupted)


def test_statistics_describe_the_pixels(small):
    listing = read_dataset(small)
    statistics = audit_dataset(listing).as_dict()["statistics"]
    assert statistics["width_px"]["min"] == statistics["width_px"]["max"] == 96
    assert sum(statistics["pixels"].values()) == 6 * 64 * 96
    assert sum(statistics["masks_per_image"].values()) == 6
    assert 0 < statistics["lesion_fraction"]["benign"]["median"] < 0.6
    assert statistics["brightness"]["normal"]["n"] == 2


def test_written_files_open_again(audit, tmp_path):
    written = write_audit(audit, tmp_path)
    assert json.loads((tmp_path / "audit.json").read_text()) == audit.as_dict()
    with (tmp_path / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert list(rows) == [case.id for case in audit.listing.cases]
    for number, group in enumerate(audit.duplicates.groups, start=1):
        assert {rows[case_id]["duplicate_group"] for case_id in group} == {str(number)}
    failed = rows[audit.failures[0].id]
    assert failed["problems"] in {"unreadable", "size_mismatch"}
    names = {path.name for path in written}
    assert {"classes.png", "lesion_pixels.png", "sizes.png", "samples.png"} <= names
    assert "duplicates_01.png" in names
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as figure:
            assert min(figure.size) > 50


def test_one_image_under_two_patients_is_told(tmp_path):
    root = write_phantom_dataset(
        tmp_path / "bus", cases=6, seed=2, size=(96, 128), layout="bus_uclm"
    )
    listing = read_dataset(root)
    first, second = [case for case in listing.cases if case.class_name == "benign"]
    assert first.group != second.group
    assert audit_dataset(listing).patient_conflicts == []
    shutil.copy(first.image, second.image)
    assert audit_dataset(listing).patient_conflicts == [sorted([first.id, second.id])]


def test_a_frame_beside_the_lesion_is_no_conflict_within_a_patient(tmp_path):
    root = write_phantom_dataset(
        tmp_path / "bus", cases=6, seed=2, size=(96, 128), layout="bus_uclm"
    )
    listing = read_dataset(root)
    normal, other, lesion, *_ = listing.cases  # two normals, two benign ones, …
    assert normal.group == lesion.group != other.group
    frame = np.asarray(Image.open(lesion.image))
    Image.fromarray(np.roll(frame, 5, axis=1)).save(normal.image)
    audit = audit_dataset(listing)
    assert audit.duplicates.groups == [sorted([normal.id, lesion.id])]
    assert audit.class_conflicts == []
    shutil.copy(lesion.image, other.image)
    (conflict,) = audit_dataset(listing).class_conflicts
    assert {normal.id, other.id, lesion.id} == {*conflict}


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        ("real_busi", (133, 437, 210)),
        ("real_bus_bra", (0, 1006, 486)),
        ("real_bus_uclm", (180, 82, 39)),
        ("real_breast", (4, 76, 48)),
    ],
)
def test_real_datasets_are_read_whole(dataset, counts, audit_of, request):
    audit = audit_of(request.getfixturevalue(dataset))
    assert tuple(audit.listing.class_counts.values()) == counts
    assert len(audit.examinations) == sum(counts)
    assert audit.problems == []
    assert all(examination.lesion_pixels is not None for examination in audit.examinations)


@pytest.mark.realdata
def test_real_bus_bra(real_bus_bra, audit_of):
    audit = audit_of(real_bus_bra)
    # two patients stand under two numbers each, with two views that differ by calipers and crop
    patients = {case.id: case.group for case in audit.listing.cases}
    torn = {frozenset(patients[name] for name in group) for group in audit.patient_conflicts}
    assert (len(audit.patient_conflicts), len(torn)) == (4, 2)
    assert max(map(len, audit.duplicates.groups)) == 2
    assert audit.class_conflicts == []
    # what was counted on this set when the flags were made
    assert {kind: len(ids) for kind, ids in audit.artefacts.items()} == {
        "colour": 0, "text": 812, "markers": 737, "grey_depth": 0, "low_contrast": 0
    }  # fmt: skip


@pytest.mark.realdata
def test_real_bus_uclm(real_bus_uclm, audit_of):
    audit = audit_of(real_bus_uclm)
    assert len({case.group for case in audit.listing.cases}) == 19
    assert audit.patient_conflicts == []
    # neighbouring frames of one sweep, with and without the lesion in sight
    classes = {case.id: case.class_name for case in audit.listing.cases}
    mixed = [{classes[name] for name in group} for group in audit.duplicates.groups]
    assert [found for found in mixed if len(found) > 1] == [{"normal", "benign"}] * 2


@pytest.mark.realdata
def test_real_breast(real_breast, audit_of):
    audit = audit_of(real_breast)
    assert len({case.group for case in audit.listing.cases}) == 128
    assert audit.duplicates.groups == []
    assert not any(audit.artefacts.values())


@pytest.mark.realdata
def test_real_busi(real_busi, reference, audit_of):
    known = json.loads((reference / "busi_known_defects.json").read_text())
    found = audit_of(real_busi).as_dict()
    assert found["masks"] == 798
    assert set(found["multi_mask"]) == set(known["multi_mask"])
    assert len(found["class_conflicts"]) == len(known["cross_label_groups"])
    assert len(found["artefacts"]["colour"]) == 16
    with_text = set(known["axilla_by_burned_in_text"])
    assert len(with_text & set(found["artefacts"]["text"])) >= 0.8 * len(with_text)
