"""The identity of masks: of one, of all in a datalist, and of those that a work was begun with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from busi_monai.cli.main import main
from busi_monai.curation import PrepareSummary, load_datalist
from busi_monai.curation.label_hashes import (
    check_same_labels,
    joined_label_hashes,
    write_label_hashes,
)
from busi_monai.errors import InputError
from busi_monai.io.images import mask_sha256, read_mask

Prepare = Callable[..., PrepareSummary]


def test_a_masks_hash_is_that_of_its_shape_and_its_pixels_as_bytes_of_0_and_1() -> None:
    mask = np.array([[0, 0, 255], [0, 7, 0]], dtype=np.uint8)
    expected = hashlib.sha256(b"2x3" + bytes([0, 0, 1, 0, 1, 0])).hexdigest()
    for same in (mask, mask > 0, mask.astype(np.float64) / 255, np.asfortranarray(mask)):
        assert mask_sha256(same) == expected
    assert mask_sha256(mask == 0) != expected
    assert mask_sha256(mask.reshape(3, 2)) != expected


def test_every_item_tells_its_mask(prepare: Prepare, defective: Path, tmp_path: Path) -> None:
    options = {"multi_mask": "split", "missing_mask": "classify-only"}
    copy = shutil.copytree(defective, tmp_path / "copy")
    for mask in copy.glob("malignant/malignant (3)_mask*.png"):
        mask.unlink()
    out = prepare(copy, tmp_path / "out", **options).out
    items = load_datalist(out).records()
    kinds = set()
    for item in items:
        if item["label"] is None:
            assert item["label_sha256"] is None
        else:
            assert item["label_sha256"] == mask_sha256(read_mask(out / item["label"]))
        kinds.add("single" if "part_of" in item["meta"] else item["label"] is None)
    assert kinds == {"single", True, False}


def test_corrected_masks_change_the_second_hash_alone(
    phantom_prepared: Path, corrected_prepared: Path
) -> None:
    one, other = load_datalist(phantom_prepared), load_datalist(corrected_prepared)
    assert one.sha256 == other.sha256 and one.labels_sha256 != other.labels_sha256
    for a, b in zip(one.records(), other.records(), strict=True):
        assert (a["label_sha256"] == b["label_sha256"]) is (a["class_label"] == 0)
    record = json.loads((phantom_prepared / "run.json").read_text("utf-8"))
    assert record["labels_sha256"] == one.labels_sha256
    content = json.loads((phantom_prepared / "datalist.json").read_text("utf-8"))
    assert list(content)[-2:] == ["sha256", "labels_sha256"]
    assert list(content["test"][0])[7:9] == ["sha256", "label_sha256"]


def test_a_mask_hash_that_was_changed_by_hand_is_refused(
    phantom_prepared: Path, tmp_path: Path
) -> None:
    content = json.loads((phantom_prepared / "datalist.json").read_text("utf-8"))
    path = tmp_path / "datalist.json"
    content["training"][0]["label_sha256"] = "0" * 64
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match="the masks' hashes were changed after they were written"):
        load_datalist(path)
    del content["labels_sha256"]
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match="but it states None"):
        load_datalist(path)


def test_a_datalist_of_an_earlier_version_is_the_same_split(
    phantom_prepared: Path, as_before_label_hashes: Callable[[Path], Path]
) -> None:
    earlier, now = (
        load_datalist(as_before_label_hashes(phantom_prepared)),
        load_datalist(phantom_prepared),
    )
    assert earlier.labels_sha256 is None and earlier == now.without_label_hashes()
    assert earlier.sha256 == now.sha256
    assert "labels_sha256" not in earlier.as_dict()


def test_a_split_repeated_on_corrected_masks_names_them(
    phantom_prepared: Path, corrected_busi: Path, corrected_prepared: Path, tmp_path: Path
) -> None:
    out, split = tmp_path / "out", phantom_prepared / "datalist.json"
    words = ["prepare", corrected_busi, "--out", out, "--from-datalist", split]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert "Other masks than the datalist tells: 16 cases: benign (1), benign (2)" in result.output
    assert load_datalist(out).sha256 == load_datalist(phantom_prepared).sha256
    assert load_datalist(out).labels_sha256 == load_datalist(corrected_prepared).labels_sha256


def items(**masks: str) -> list[dict[str, str]]:
    return [{"id": id, "sha256": f"{id}'s", "label_sha256": mask} for id, mask in masks.items()]


def test_other_masks_are_counted_and_named(tmp_path: Path) -> None:
    write_label_hashes(tmp_path, items(a="1", b="2", c="3"))
    check_same_labels(tmp_path, items(c="3", b="2", d="4"), "Begin anew")
    with pytest.raises(InputError) as caught:
        check_same_labels(tmp_path, items(a="1", b="x", c="y"), "Begin anew")
    assert (
        str(caught.value) == f"{tmp_path} was begun with other masks of 2 cases: b, c. Begin anew"
    )


def test_what_has_no_hashes_is_noted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        check_same_labels(tmp_path, items(a="1"), "Begin anew")
    assert [m.startswith(f"{tmp_path} has hashes of its images only") for m in caplog.messages] == [
        True
    ]
    (tmp_path / "label_hashes.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="expected a list"):
        check_same_labels(tmp_path, items(a="1"), "Begin anew")


def test_runs_of_different_masks_are_not_joined(tmp_path: Path) -> None:
    labels = {
        "one": items(a="1", b="2"),
        "more": [*items(b="2", c="3"), {"id": "b#1", "sha256": "b's", "label_sha256": "5"}],
        "other": items(a="1", c="x"),
    }
    for name, content in labels.items():
        (tmp_path / name).mkdir()
        write_label_hashes(tmp_path / name, content)
    joined = joined_label_hashes([tmp_path / "one", tmp_path / "more"])
    assert [item["id"] for item in joined] == ["a", "b", "c", "b#1"]
    told = r"more and .*other were trained with different masks of 1 case: c; train both"
    runs = [tmp_path / name for name in ("one", "more", "other")]
    with pytest.raises(InputError, match=told):
        joined_label_hashes(runs)
