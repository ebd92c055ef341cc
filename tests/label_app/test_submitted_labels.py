"""What annotators submitted is read without MONAI Label."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.curation import PrepareOptions, prepare_dataset
from busi_monai.datasets import read_dataset
from busi_monai.errors import InputError
from busi_monai.files import read_json
from busi_monai.io.images import read_mask
from busi_monai.label_app.submitted_labels import (
    class_of_label,
    import_submitted_labels,
    read_submitted_labels,
)

LESION = np.zeros((3, 4), dtype=int)
LESION[1, 1:3] = 1
EMPTY = np.zeros((3, 4), dtype=int)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    ("info", "values", "expected"),
    [
        ({"class": "malignant"}, LESION, "malignant"),
        ({"params": {"class": " Benign "}}, LESION, "benign"),
        ({}, EMPTY, "normal"),
        ({"class": "benign"}, EMPTY, "benign"),
        ({}, LESION, None),
        ({"label_info": [{"name": "lesion", "idx": 1}]}, LESION, None),
        ({"label_info": [{"name": "Benign", "idx": 1}]}, LESION, "benign"),
        ({"label_info": [{"name": "benign", "idx": 1}, {"name": "malignant", "idx": 2}]},
         LESION * 2, "malignant"),
        ({"label_info": "nonsense", "params": "nonsense"}, LESION, None),
    ],
)  # fmt: skip
def test_the_class_of_a_label(
    info: dict[str, object], values: np.ndarray, expected: str | None
) -> None:
    assert class_of_label(info, values) == expected


def test_a_class_of_another_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"'cyst': expected normal, benign, malignant"):
        class_of_label({"class": "cyst"}, LESION)


def test_segments_of_two_classes_are_refused() -> None:
    both = LESION.copy()
    both[0, 0] = 2
    segments = [{"name": "benign", "idx": 1}, {"name": "malignant", "idx": 2}]
    with pytest.raises(InputError, match=r"several classes are drawn \(benign, malignant\)"):
        class_of_label({"label_info": segments}, both)


def test_a_stock_servers_table_tells_too_and_ours_goes_first(studies: Path, submit) -> None:
    for name in ("benign (1)", "benign (2)"):
        submit(studies, name)
    (studies / "labels/final/benign (2).json").unlink()
    label = {"ext": ".png", "info": {"class": "malignant", "client_id": "bert"}}
    entry = {"image": {"ext": ".png", "info": {}}, "labels": {"final": label}}
    objects = {"benign (1)": entry, "benign (2)": entry}
    (studies / "datastore_v2.json").write_text(json.dumps({"objects": objects}), "utf-8")
    found = {label.id: label for label in read_submitted_labels(studies).labels}
    assert (found["benign (1)"].class_name, found["benign (1)"].annotator) == ("benign", "anna")
    assert (found["benign (2)"].class_name, found["benign (2)"].annotator) == ("malignant", "bert")


def test_what_cannot_be_used_is_left_out_with_its_reason(studies: Path, submit) -> None:
    some = np.zeros((96, 128), dtype=np.uint8)
    some[10:20, 10:30] = 1
    submit(studies, "benign (1)", np.zeros((5, 6), dtype=np.uint8))
    submit(studies, "benign (2)", some * 0)
    submit(studies, "normal (1)", some)
    submit(studies, "malignant (1)", **{"class": "cyst"})
    submit(studies, "malignant (2)", **{"class": None})
    submit(studies, "malignant (3)").write_bytes(b"nothing")
    submit(studies, "malignant (4)")
    (studies / "malignant (4).png").unlink()
    found = read_submitted_labels(studies)
    assert found.labels == []
    reasons = {problem.id: (problem.kind, problem.message) for problem in found.problems}
    assert reasons["benign (1)"][0] == "size_mismatch" and "6×5" in reasons["benign (1)"][1]
    assert reasons["benign (2)"][0] == "empty_mask"
    assert reasons["normal (1)"][0] == "normal_with_mask" and "200" in reasons["normal (1)"][1]
    assert "'cyst'" in reasons["malignant (1)"][1]
    assert reasons["malignant (2)"][0] == "unknown_class"
    assert reasons["malignant (3)"][0] == "unreadable"
    assert reasons["malignant (4)"][0] == "mask_without_image"


def test_of_two_files_for_one_image_the_one_named_counts(studies: Path, submit) -> None:
    import nibabel

    path = submit(studies, "benign (1)", name="benign (1).png")
    volume = nibabel.Nifti1Image(np.zeros((128, 96, 1), dtype=np.uint8), np.eye(4))
    nibabel.save(volume, path.with_name("benign (1).nii.gz"))
    assert [label.label for label in read_submitted_labels(studies).labels] == [path]


def test_a_folder_without_labels_is_refused(studies: Path, submit) -> None:
    with pytest.raises(InputError, match="no folder labels/final"):
        read_submitted_labels(studies)
    submit(studies, "benign (1)")
    with pytest.raises(InputError, match=r"labels/other; .* whose tags are final"):
        read_submitted_labels(studies, "other")


def test_the_import_is_what_prepare_reads(studies: Path, submit, truth_of, tmp_path: Path) -> None:
    ids = [f"{name} ({n})" for name in ("normal", "benign", "malignant") for n in range(1, 5)]
    for name in ids:
        submit(studies, name, served={"run": "r", "weights_sha256": 64 * "a"})
    before = sorted(path for path in studies.rglob("*"))
    done = import_submitted_labels(studies, tmp_path / "out")
    assert done.classes == {"normal": 4, "benign": 4, "malignant": 4} and done.problems == []
    assert sorted(path for path in studies.rglob("*")) == before
    listing = read_dataset(tmp_path / "out")
    assert sorted(case.id for case in listing.cases) == sorted(ids) and listing.problems == []
    mask = read_mask(tmp_path / "out/masks/benign (1).png")
    assert np.array_equal(mask, truth_of("benign (1)") > 0)
    assert not (tmp_path / "out/masks/normal (1).png").exists()
    summary = prepare_dataset(
        tmp_path / "out", tmp_path / "prepared", PrepareOptions(ratios="70/30/0")
    )
    assert summary.failures == []
    items = {item["id"]: item for item in summary.datalist.records()}
    assert items["benign (1)"]["meta"] == {
        "annotator": "anna",
        "submitted": "2026-01-01T00:00:00Z",
        "model": 12 * "a",
    }


def test_provenance_is_kept_in_full(studies: Path, submit, truth_of, tmp_path: Path) -> None:
    served = {"run": "r", "weights_sha256": "ab", "proposed_by": {"predicted_class": "benign"}}
    submit(studies, "benign (1)", served=served)
    submit(studies, "benign (2)", np.zeros((96, 128), dtype=np.uint8))
    import_submitted_labels(studies, tmp_path / "out")
    kept = read_json(tmp_path / "out/provenance.json")
    assert kept["tag"] == "final" and kept["left_out"][0]["id"] == "benign (2)"
    assert kept["labels"][0] == {
        "id": "benign (1)",
        "image": "benign (1).png",
        "label": "benign (1).png",
        "class_name": "benign",
        "lesion_pixels": truth_of("benign (1)").sum(),
        "size": [96, 128],
        "annotator": "anna",
        "submitted": "2026-01-01T00:00:00Z",
        "model": served,
    }
    with (tmp_path / "out/labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"image": "benign (1).png", "label": "benign", "annotator": "anna",
         "submitted": "2026-01-01T00:00:00Z", "model": "ab"},
    ]  # fmt: skip
    assert read_json(tmp_path / "out/run.json")["failures"][0]["file"].endswith("benign (2).png")


def test_the_command_lists_what_it_left_out(studies: Path, submit, tmp_path: Path) -> None:
    submit(studies, "benign (1)")
    assert run("label-import", studies, "--out", tmp_path / "out").exit_code == 0
    refused = run("label-import", studies, "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "not empty" in refused.output
    submit(studies, "malignant (1)", **{"class": None})
    result = run("label-import", studies, "--out", tmp_path / "out", "--overwrite", "--json")
    assert result.exit_code == 1
    assert "Left out: labels/final/malignant (1).png: no class" in result.stderr
    told = json.loads(result.stdout)
    assert told["classes"]["benign"] == 1 and told["left_out"][0]["kind"] == "unknown_class"


def test_the_command_writes_nothing_without_a_usable_label(
    studies: Path, submit, tmp_path: Path
) -> None:
    submit(studies, "benign (1)", **{"class": None})
    result = run("label-import", studies, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "nothing was written" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_import_stays_out_of_the_studies(studies: Path, submit) -> None:
    submit(studies, "benign (1)")
    result = run("label-import", studies, "--out", studies / "copies")
    assert result.exit_code == 2 and "within each other" in result.output


def test_a_dicom_image_comes_along_as_found(
    studies: Path, submit, save_ultrasound, tmp_path: Path
) -> None:
    pixels = (np.indices((40, 50)).sum(axis=0) * 2).astype(np.uint8)
    save_ultrasound(studies / "IM1.dcm", pixels)
    mask = np.zeros((40, 50), dtype=np.uint8)
    mask[5:9, 7:20] = 1
    submit(studies, "IM1", mask, **{"class": "benign"})
    import_submitted_labels(studies, tmp_path / "out")
    summary = prepare_dataset(
        tmp_path / "out", tmp_path / "prepared", PrepareOptions(protocol="external")
    )
    (item,) = summary.datalist.test
    found = tmp_path / "prepared" / item["image"]
    assert found.suffix == ".png" and b"Secret" not in found.read_bytes()
    assert read_mask(tmp_path / "prepared" / item["label"]).sum() == mask.sum()


def test_a_label_of_several_values_is_one_lesion(studies: Path, submit, tmp_path: Path) -> None:
    both = np.zeros((96, 128), dtype=np.uint8)
    both[10:20, 10:20], both[40:60, 40:60] = 1, 2
    submit(studies, "benign (1)", both)
    import_submitted_labels(studies, tmp_path / "out")
    assert read_mask(tmp_path / "out/masks/benign (1).png").sum() == 500
