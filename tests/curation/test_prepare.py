from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.cases import CLASSES
from busi_monai.curation import (
    PrepareOptions,
    audit_dataset,
    load_datalist,
    load_split,
    prepare_dataset,
)
from busi_monai.curation.prepare import class_counts
from busi_monai.datasets import read_dataset
from busi_monai.errors import InputError
from busi_monai.io.images import pixel_sha256, read_image, read_mask
from busi_monai.phantoms import planted_defects, write_phantom_dataset


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def parts_of(datalist) -> dict[str, str]:
    return {record["id"]: record["split"] for record in datalist.records()}


def test_a_prepared_folder_is_complete_and_the_original_untouched(phantom_busi, tmp_path):
    before = tree(phantom_busi)
    summary = prepare_dataset(phantom_busi, tmp_path / "out")
    assert tree(phantom_busi) == before
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "images", "labels", "datalist.json", "audit.json", "figures", "run.json"
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    listing = read_dataset(phantom_busi)
    records = load_datalist(tmp_path / "out").records()
    assert {record["id"] for record in records} == {case.id for case in listing.cases}
    for record in records:
        case = listing.case(record["id"])
        image = tmp_path / "out" / record["image"]
        assert image.read_bytes() == case.image.read_bytes()
        assert record["sha256"] == pixel_sha256(read_image(image).pixels)
        assert record["class_label"] == CLASSES.index(case.class_name)
        label = read_mask(tmp_path / "out" / record["label"])
        assert np.array_equal(label, np.any([read_mask(mask) for mask in case.masks], axis=0))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["datalist_sha256"] == summary.datalist.sha256
    assert run["failures"] == []
    assert len(run["files"]) == 2 * len(records)


def test_same_input_and_seed_give_the_same_bytes(phantom_busi, tmp_path, prepare):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        prepare(phantom_busi, tmp_path / name, seed=seed, folds=3)
    one, two, three = (
        (tmp_path / n / "datalist.json").read_bytes() for n in ("one", "two", "three")
    )
    assert one == two != three
    assert str(tmp_path).encode() not in one


def test_one_audit_serves_several_protocols(defective, without_figures, tmp_path):
    audit = audit_dataset(read_dataset(defective))
    for protocol in ("leakfree", "random"):
        options = PrepareOptions(protocol=protocol, folds=3)
        fresh = prepare_dataset(defective, tmp_path / protocol, options)
        passes: list[int] = []

        def counted(cases, passes=passes):
            passes.append(len(cases))
            return cases

        out = tmp_path / f"{protocol} again"
        again = prepare_dataset(defective, out, options, audit=audit, progress=counted)
        assert again.datalist == fresh.datalist
        assert again.duplicate_groups == fresh.duplicate_groups > 0
        assert passes == [len(audit.examinations)]


def test_an_audit_of_something_else_is_refused(phantom_busi, tmp_path):
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    with pytest.raises(InputError, match=r"audit of .* is not one of what .*copy holds now"):
        prepare_dataset(copy, tmp_path / "out", audit=audit_dataset(read_dataset(phantom_busi)))
    audit = audit_dataset(read_dataset(copy))
    pixels = np.array(Image.open(copy / "benign" / "benign (1).png"))
    pixels[5, 5] ^= 1
    Image.fromarray(pixels).save(copy / "benign" / "benign (1).png")
    with pytest.raises(InputError, match=r"since the audit, of 1 in all: benign \(1\); audit"):
        prepare_dataset(copy, tmp_path / "out", audit=audit)
    assert not (tmp_path / "out").exists()


def test_leakfree_keeps_planted_twins_together_and_lists_conflicts(defective, tmp_path, prepare):
    summary = prepare(defective, tmp_path / "out", folds=3)
    planted = planted_defects(defective)
    folds = {item["id"]: item["fold"] for item in summary.datalist.training}
    groups = {item["id"]: item["group"] for item in summary.datalist.training}
    conflicts = {name for pair in planted["class_conflicts"] for name in pair}
    assert conflicts
    for one, other in planted["near_duplicates"]:
        if one not in conflicts:
            assert folds[one] == folds[other]
            assert groups[one] == groups[other]
    reasons = {entry["id"]: entry["reason"] for entry in summary.datalist.excluded}
    for name in conflicts:
        assert reasons[name].startswith("class conflict")
        assert not (tmp_path / "out" / "images" / f"{name}.png").exists()
    assert summary.datalist.leaks["count"] == 0


def test_bad_files_are_left_out_and_listed_and_the_rest_is_done(defective, tmp_path, prepare):
    summary = prepare(defective, tmp_path / "out", protocol="external")
    planted = planted_defects(defective)
    bad = {*planted["truncated"], *planted["size_mismatch"]}
    assert bad
    assert {failure.id for failure in summary.failures} == bad
    assert {entry["id"] for entry in summary.datalist.excluded} == bad
    assert len(summary.datalist.test) == len(read_dataset(defective).cases) - len(bad)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(run["failures"]) == len(bad)
    assert str(defective) not in json.dumps(summary.datalist.as_dict())


def test_random_states_its_leaks_and_dedup_ends_them(defective, tmp_path, prepare):
    planted = planted_defects(defective)
    leaking = [
        prepare(defective, tmp_path / f"{seed}", protocol="random", ratios="50/25/25", seed=seed)
        for seed in range(2)
    ]
    parts = [parts_of(summary.datalist) for summary in leaking]
    for summary, part in zip(leaking, parts, strict=True):
        apart = [
            name
            for pair in planted["near_duplicates"]
            for name in pair
            if part[name] != "train" and "train" in {part[other] for other in pair}
        ]
        assert set(apart) == set(summary.datalist.leaks["ids"])
    assert sum(summary.datalist.leaks["count"] for summary in leaking) > 0
    clean = prepare(defective, tmp_path / "clean", protocol="random", dedup="phash")
    assert clean.datalist.leaks["count"] == 0
    assert clean.datalist.options["dedup"] == "phash"
    assert "duplicate" in clean.excluded_by_reason()


def test_split_masks_make_training_cases_in_one_group(defective, tmp_path, prepare):
    summary = prepare(defective, tmp_path / "out", folds=3, multi_mask="split")
    by_id = {item["id"]: item for item in summary.datalist.training}
    for name in planted_defects(defective)["multi_mask"]:
        whole, parts = by_id[name], [by_id[f"{name}#1"], by_id[f"{name}#2"]]
        for part in parts:
            assert (part["group"], part["fold"]) == (whole["group"], whole["fold"])
            assert part["image"] == whole["image"]
        masks = [read_mask(tmp_path / "out" / part["label"]) for part in parts]
        assert np.array_equal(masks[0] | masks[1], read_mask(tmp_path / "out" / whole["label"]))
        reported = load_split(tmp_path / "out", "reported", fold=whole["fold"])
        assert name in {item["id"] for item in reported}
        assert not any("#" in item["id"] for item in reported)
    assert summary.counts["fold 0"]["benign"] < len(by_id)
    assert sum(sum(row.values()) for row in summary.counts.values()) == len(
        [name for name in by_id if "#" not in name]
    )


@pytest.fixture
def bare_lesion(phantom_busi, tmp_path):
    """A copy of the phantoms where one benign case has no mask."""
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    next(iter((copy / "benign").glob("benign (1)_mask.png"))).unlink()
    return copy


def test_lesions_without_mask_are_left_out_or_kept_for_their_class(bare_lesion, tmp_path, prepare):
    out = tmp_path / "out"
    summary = prepare(bare_lesion, out, protocol="external")
    assert summary.excluded_by_reason() == {"missing mask": ["benign (1)"]}
    assert summary.failures == []
    kept = prepare(
        bare_lesion, out, protocol="external", missing_mask="classify-only", overwrite=True
    )
    assert kept.datalist.excluded == []
    (item,) = (item for item in load_split(out, "test") if item["id"] == "benign (1)")
    assert "label" not in item


def test_lists_decide_the_parts_of_the_protocol_file(phantom_busi, tmp_path, prepare):
    (tmp_path / "train.txt").write_text("benign (1)\nnormal (2)\n")
    (tmp_path / "val.txt").write_text("malignant (3).png\n")
    lists = {"train_list": tmp_path / "train.txt", "validation_list": tmp_path / "val.txt"}
    summary = prepare(phantom_busi, tmp_path / "out", protocol="file", **lists)
    assert parts_of(summary.datalist) == {
        "benign (1)": "train", "normal (2)": "train", "malignant (3)": "validation"
    }  # fmt: skip
    assert {path.stem for path in (tmp_path / "out/images").iterdir()} == set(
        parts_of(summary.datalist)
    )
    (tmp_path / "val.txt").write_text("benign (999)\n")
    with pytest.raises(InputError, match=r"val.txt: .* not in the dataset: benign \(999\)"):
        prepare(phantom_busi, tmp_path / "other", protocol="file", **lists)


def test_patients_stay_together(tmp_path, prepare):
    source = write_phantom_dataset(
        tmp_path / "bus_bra", cases=40, seed=0, size=(96, 128), layout="bus_bra"
    )
    patients = {case.id: case.group for case in read_dataset(source).cases}
    summary = prepare(source, tmp_path / "out", folds=3)
    folds: dict[str, set[int]] = {}
    for item in summary.datalist.training:
        folds.setdefault(patients[item["id"]], set()).add(item["fold"])
    assert len(folds) < len(patients)
    assert all(len(numbers) == 1 for numbers in folds.values())
    assert summary.counts["fold 0"]["normal"] == 0


def test_official_folds_are_taken_as_they_are_and_their_leaks_are_stated(tmp_path, prepare):
    source = write_phantom_dataset(
        tmp_path / "bus_bra", cases=20, seed=0, size=(96, 128), layout="bus_bra"
    )
    table = source / "5-fold-cv.csv"
    head, first, second, third, *rows = table.read_text("utf-8").splitlines()
    assert (first, second) == ("bus_0001-l,benign,1", "bus_0001-r,malignant,1")
    table.write_text("\n".join([head, first, "bus_0001-r,malignant,3", *rows]), "utf-8")
    without = third.split(",")[0]
    shutil.copy(source / "Images/bus_0003-l.png", source / "Images/bus_0005-l.png")
    datalist = prepare(source, tmp_path / "out", protocol="official").datalist
    folds = {item["id"]: item["fold"] for item in datalist.training}
    listed = {row.split(",")[0]: int(row.split(",")[2]) - 1 for row in [first, *rows]}
    assert folds == {**listed, "bus_0001-r": 2}
    assert datalist.excluded == [{"id": without, "reason": "in no official fold"}]
    assert datalist.leaks["ids"] == ["bus_0003-l", "bus_0005-l"]
    assert datalist.leaks["evaluation_images"] == 19
    assert datalist.leaks["patients"] == ["bus_bra:1"]
    assert load_datalist(tmp_path / "out") == datalist


def test_a_dataset_without_folds_of_its_own_names_those_that_have_some(
    phantom_busi, tmp_path, prepare
):
    with pytest.raises(InputError, match=r"\(busi\) has no folds .*bus_bra \(5-fold-cv.csv\)"):
        prepare(phantom_busi, tmp_path / "out", protocol="official")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_kept_unless_told_otherwise(phantom_busi, tmp_path, prepare):
    prepare(phantom_busi, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match="pass --overwrite"):
        prepare(phantom_busi, tmp_path / "out")
    with pytest.raises(InputError, match="at most 8"):
        prepare(phantom_busi, tmp_path / "out", folds=50, overwrite=True)
    assert tree(tmp_path / "out") == before


def test_a_failed_write_leaves_the_previous_folder(phantom_busi, tmp_path, prepare, monkeypatch):
    prepare(phantom_busi, tmp_path / "out")
    before = tree(tmp_path / "out")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("busi_monai.curation.storage.write_mask", full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare(phantom_busi, tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_the_output_cannot_lie_within_the_dataset_or_around_it(phantom_busi, place, prepare):
    with pytest.raises(InputError, match="lie within each other"):
        prepare(phantom_busi, phantom_busi / place, overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "grouped"}, "expected one of leakfree, random"),
        ({"multi_mask": "both"}, "expected one of union, split"),
        ({"missing_mask": "drop"}, "expected one of exclude, classify-only"),
        ({"folds": 1}, "at least 2"),
        ({"dedup": "mean"}, "expected one of none, exact, phash"),
        ({"seed": -1}, "expected 0 or more"),
        ({"ratios": "80/20"}, "add up to 100"),
        ({"protocol": "external", "folds": 3}, "not for the protocol external"),
        ({"protocol": "curated"}, "needs --ids FILE"),
        ({"protocol": "file"}, "needs --train-list FILE"),
        (
            {"protocol": "file", "train_list": Path("t")},
            "FILE and --validation-list",
        ),
        ({"protocol": "curated", "ids": Path("nowhere.txt")}, "nowhere.txt does not exist"),
        (
            {"from_datalist": Path("nowhere.json")},
            "no datalist 'nowhere.json'; expected .* busi-leakfree-v1, ",
        ),
        ({"from_datalist": Path("x.json"), "folds": 5}, "brings its own protocol"),
    ],
)
def test_options_that_make_no_sense_are_refused(phantom_busi, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        prepare_dataset(phantom_busi, tmp_path / "out", PrepareOptions(**options))
    assert not (tmp_path / "out").exists()


def test_label_maps_are_prepared_and_what_is_none_says_so(phantom_busi, tmp_path, prepare):
    source = tmp_path / "busi"
    shutil.copytree(phantom_busi, source)
    masks = [source / f"benign/benign ({n})_mask.png" for n in (1, 2, 3)]
    lesion = read_mask(masks[0])
    lower = np.arange(len(lesion))[:, None] > np.flatnonzero(lesion.any(axis=1)).mean()
    Image.fromarray(np.where(lower, 2, 1).astype(np.uint16) * lesion).save(masks[0])
    Image.fromarray(np.zeros_like(lesion)).save(masks[1])
    Image.fromarray(lesion + np.uint8(1)).save(masks[2])

    summary = prepare(source, tmp_path / "out", protocol="external")

    assert np.array_equal(read_mask(tmp_path / "out/labels/benign (1).png"), lesion)
    reasons = {entry["id"]: entry["reason"] for entry in summary.datalist.excluded}
    assert reasons == {
        "benign (2)": "empty mask: the lesion of a benign case has no pixel in "
        "benign/benign (2)_mask.png",
        "benign (3)": "unusable: benign/benign (3)_mask.png: the mask holds the values 1, 2, none "
        "of them 0 for the background; save the lesion as 255 on 0, or lesions as 1, 2, … on 0",
    }
    assert [problem.id for problem in summary.failures] == ["benign (3)"]


def test_too_few_usable_images_say_why_the_others_were_left_out(phantom_busi, tmp_path, prepare):
    source = tmp_path / "busi"
    shutil.copytree(phantom_busi, source)
    for mask in list(source.glob("malignant/*_mask.png"))[1:]:
        mask.unlink()

    with pytest.raises(
        InputError, match=r"malignant .* too few.*Left out before: 7 missing mask; the first"
    ):
        prepare(source, tmp_path / "out")


def test_names_with_brackets_blanks_and_letters_of_all_kinds(tmp_path, prepare):
    source = tmp_path / "Bilder [ä] 超声"
    for name in ("fälle [1] 图", "b c", "d.e"):
        (source / "images").mkdir(parents=True, exist_ok=True)
        (source / "masks").mkdir(exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (40, 50), np.uint8)
        Image.fromarray(pixels).save(source / "images" / f"{name}.bmp")
        Image.fromarray(np.where(pixels > 199, 255, 0).astype(np.uint8)).save(
            source / "masks" / f"{name}.png"
        )
    rows = "\n".join(f"{name}.bmp,benign" for name in ("fälle [1] 图", "b c", "d.e"))
    (source / "labels.csv").write_text(f"image,label\n{rows}\n", encoding="utf-8")
    prepare(source, tmp_path / "aus [1]", protocol="external")
    assert {item["id"] for item in load_split(tmp_path / "aus [1]", "test")} == {
        "fälle [1] 图", "b c", "d.e"
    }  # fmt: skip


def leaks_by_published_groups(reference: Path, number: int) -> set[str]:
    """The evaluation images of a published split with a twin in training, by perceptual hash."""
    lists = reference / "published_splits"
    training = set((lists / f"split{number}_train.txt").read_text().splitlines())
    evaluated = set((lists / f"split{number}_val.txt").read_text().splitlines())
    groups = json.loads((reference / "busi_known_defects.json").read_text())["phash_le4_groups"]
    return {case for group in groups if training & set(group) for case in evaluated & set(group)}


@pytest.mark.realdata
def test_real_busi_folds_are_even(busi_folds):
    datalist = load_datalist(busi_folds)
    assert datalist.leaks["count"] == 0
    for counts in class_counts(datalist).values():
        assert 25 <= counts["normal"] <= 28
        assert 83 <= counts["benign"] <= 88
        assert 38 <= counts["malignant"] <= 43


@pytest.mark.realdata
def test_curated_busi_has_450_images(real_busi, reference, audit_of, tmp_path):
    options = PrepareOptions(protocol="curated", ids=reference / "curated_busi_v1.csv")
    curated = prepare_dataset(real_busi, tmp_path / "out", options, audit=audit_of(real_busi))
    assert len(curated.datalist.records()) == 450


@pytest.mark.realdata
@pytest.mark.parametrize(("number", "stated"), [(1, 35), (2, 43), (3, 44)])
def test_published_splits_of_busi_leak(number, stated, busi_published_split, reference):
    leaks = load_datalist(busi_published_split(number)).leaks
    assert leaks["evaluation_images"] == 195
    by_hash = leaks_by_published_groups(reference, number)
    assert len(by_hash) == stated
    assert by_hash <= set(leaks["ids"])


def test_class_folders_in_split_folders_are_the_parts_of_the_protocol_file(phantom_busi, tmp_path):
    root, wanted = tmp_path / "in", {}
    for number, case in enumerate(read_dataset(phantom_busi).cases):
        name = ("Train", "val", "test")[number % 3]
        folder = root / name / case.class_name
        folder.mkdir(parents=True, exist_ok=True)
        for path in (case.image, *case.masks):
            shutil.copy(path, folder)
        wanted[case.id] = {"Train": "train", "val": "validation"}.get(name, name)
    # into a second part, under the same name
    shutil.copy(case.image, root / "Train" / case.class_name)
    shutil.copy(case.masks[0], root / "Train" / case.class_name)
    listing = read_dataset(root)
    assert listing.dataset == "busi" and {p.kind for p in listing.problems} == {"renamed_id"}
    summary = prepare_dataset(root, tmp_path / "out", PrepareOptions(protocol="file"))
    parts = parts_of(summary.datalist)
    assert {id: parts[id] for id in wanted if id != case.id} == {
        id: part for id, part in wanted.items() if id != case.id
    }
    assert summary.failures == [] and summary.datalist.leaks["count"] == 1
    assert {id for id in parts if id not in wanted} == {
        f"{name}-{case.class_name}-{case.id}" for name in ("test", "Train")
    }


def test_images_and_masks_in_split_folders_are_the_parts_of_the_protocol_file(
    phantom_busi, tmp_path
):
    rows, wanted = ["image,label"], {}
    for number, case in enumerate(read_dataset(phantom_busi).cases):
        part = ("train", "val", "test")[number % 3]
        for kind, path in (("images", case.image), *(("masks", mask) for mask in case.masks)):
            folder = tmp_path / "in" / kind / part
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / case.image.name)
        rows.append(f"{case.id},{case.class_name}")
        wanted[case.id] = {"val": "validation"}.get(part, part)
    (tmp_path / "in" / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    summary = prepare_dataset(tmp_path / "in", tmp_path / "out", PrepareOptions(protocol="file"))
    assert parts_of(summary.datalist) == wanted and summary.failures == []


def test_the_protocol_file_needs_lists_or_folders_of_a_split(phantom_busi, tmp_path):
    with pytest.raises(InputError, match="or folders train, val and test in the dataset"):
        prepare_dataset(phantom_busi, tmp_path / "out", PrepareOptions(protocol="file"))
    assert not (tmp_path / "out").exists()


def test_what_a_reader_leaves_out_is_told_without_failing(phantom_busi, tmp_path):
    source = tmp_path / "set"
    shutil.copytree(phantom_busi, source)
    image = source / "normal" / "normal (1).png"
    shutil.copy(image, image.with_name(f"{image.stem}-mask.png"))

    summary = prepare_dataset(source, tmp_path / "out")

    assert summary.failures == []
    assert summary.notes == [
        f"normal/{image.stem}-mask.png: looks like a mask of {image.stem}; "
        f"rename it to {image.stem}_mask_1.png"
    ]
