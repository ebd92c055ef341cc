from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.inference import PredictionsFolder, Truth, prediction_columns


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_folder_holds_table_mask_overlay_and_record(tmp_path, image, prediction, monkeypatch):
    monkeypatch.setattr("busi_monai.inference.writers.ROWS_AT_ONCE", 1)
    with PredictionsFolder(tmp_path / "out") as folder:
        folder.add("Bild ä", image, prediction)
        assert len(rows(tmp_path / "out")) == 1  # on disk as they come
        folder.fail("bad", "somewhere/bad.png", "it is empty")
    (row, failed) = rows(tmp_path / "out")
    assert list(row) == prediction_columns()
    assert row["id"] == "Bild ä" and row["predicted_class"] == "benign"
    assert [float(row[f"p_{c}"]) for c in ("normal", "benign", "malignant")] == [0.1, 0.7, 0.2]
    assert [row[f"box_{side}"] for side in "xywh"] == ["40", "10", "30", "20"]
    assert (row["lesion_pixels"], row["lesion_fraction"]) == ("600", "0.077922")
    assert failed["error"] == "it is empty" and failed["predicted_class"] == ""
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "Bild ä.png"))
    assert mask.dtype == np.uint8 and np.array_equal(mask, prediction.mask * 255)
    assert Image.open(tmp_path / "out" / "overlays" / "Bild ä.png").size[0] == 110
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["counts"] == {
        "predicted": 1, "failed": 1, "normal": 0, "benign": 1, "malignant": 0
    }  # fmt: skip
    assert record["failures"] == [{"file": "somewhere/bad.png", "message": "it is empty"}]


def test_truth_adds_class_scores_and_group(tmp_path, image, prediction):
    true = np.zeros((70, 110), dtype=bool)
    true[10:30, 40:55] = True
    with PredictionsFolder(tmp_path / "out", with_truth=True, overlays=False) as folder:
        folder.add("a", image, prediction, Truth("malignant", true, "patient 7"))
        folder.add("b", image, prediction, Truth("benign"))
        folder.add("c", image, prediction, Truth("normal", np.zeros((70, 110))))
    known, without_mask, normal = rows(tmp_path / "out")
    assert (known["true_class"], known["group"]) == ("malignant", "patient 7")
    assert (float(known["dice"]), float(known["iou"])) == (0.666667, 0.5)
    assert known["true_lesion_pixels"] == "300"
    assert without_mask["dice"] == "" and without_mask["true_lesion_pixels"] == ""
    assert float(normal["dice"]) == 0 and normal["hd95_px"] == ""
    assert not (tmp_path / "out" / "overlays").exists()


def test_a_network_without_mask_head_gets_no_mask_scores(tmp_path, image, prediction):
    classifier = replace(prediction, mask=prediction.mask * 0, box=None, has_mask=False)
    with PredictionsFolder(tmp_path / "out", with_truth=True, overlays=False) as folder:
        folder.add("a", image, classifier, Truth("benign", prediction.mask > 0))
        folder.add("b", image, classifier, Truth("normal", prediction.mask * 0 > 0))
    for row, pixels in zip(rows(tmp_path / "out"), ("600", "0"), strict=True):
        assert row["true_lesion_pixels"] == pixels
        assert row["dice"] == row["iou"] == row["pixel_accuracy"] == ""


def test_equal_names_never_overwrite_one_another(tmp_path, image, prediction):
    with PredictionsFolder(tmp_path / "out") as folder:
        for name in ("a", "A", "a", "x/a", "..", "a-2"):
            folder.add(name, image, prediction)
    ids = [row["id"] for row in rows(tmp_path / "out")]
    assert ids == ["a", "A-2", "a-3", "x_a", "image", "a-2-2"]
    assert {path.stem for path in (tmp_path / "out" / "masks").iterdir()} == set(ids)


def test_a_subset_of_classes_has_no_other_columns(tmp_path, image, prediction):
    two = replace(prediction, probabilities={"benign": 0.4, "malignant": 0.6})
    with PredictionsFolder(tmp_path / "out", ("benign", "malignant")) as folder:
        folder.add("a", image, two)
    (row,) = rows(tmp_path / "out")
    assert [name for name in row if name.startswith("p_")] == ["p_benign", "p_malignant"]


def test_without_lesion_and_class_the_cells_are_empty(tmp_path, image, prediction):
    empty = replace(
        prediction, mask=prediction.mask * 0, probabilities={}, predicted_class=None, box=None
    )
    with PredictionsFolder(tmp_path / "out", ()) as folder:
        folder.add("a", image, empty)
    (row,) = rows(tmp_path / "out")
    assert row["predicted_class"] == row["box_x"] == row["box_h"] == ""


def test_use_outside_of_a_with_statement_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="with statement"):
        PredictionsFolder(tmp_path / "out").fail("a", "a.png", "x")
