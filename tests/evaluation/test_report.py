from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from busi_monai.errors import InputError
from busi_monai.evaluation import MetricsReport, read_predictions, write_evaluation
from busi_monai.files import write_json
from busi_monai.io.images import write_png


@pytest.fixture
def folder(tmp_path, make_table):
    table = make_table(60)
    table.loc[0, "id"] = "a $1$ [b] ü"
    table.to_csv(tmp_path / "predictions.csv", index=False)
    for name in table["id"]:
        write_png(tmp_path / "overlays" / f"{name}.png", np.zeros((20, 30, 3), dtype=np.uint8))
    write_json(tmp_path / "run.json", {"weights_sha256": "ab" * 32, "protocol": "leakfree"})
    return tmp_path


def test_metrics_report_and_figures_lie_beside_the_table(folder):
    metrics = write_evaluation(folder, provenance={"split": "test", "fold": None}, resamples=20)
    written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(metrics))
    assert (written["protocol"], written["split"]) == ("leakfree", "test")
    assert written["weights_sha256"] == "ab" * 32 and len(written["predictions_sha256"]) == 64
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {
        "confusion_matrix", "roc", "reliability", "dice_by_class", "worst_lesions", "best_lesions"
    }  # fmt: skip
    for path in (folder / "figures").iterdir():
        assert np.asarray(Image.open(path).convert("L")).std() > 1, "a figure is empty"


def test_report_tells_figures_limits_and_provenance(folder):
    write_evaluation(folder, resamples=20)
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "For research use only; not a medical device." in report
    for words in ("Lesion Dice", "Balanced accuracy", "Protocol: leakfree", "| malignant |"):
        assert words in report
    for figure in ("figures/roc.png", "figures/worst_lesions.png"):
        assert f"({figure})" in report and (folder / figure).is_file()


def test_report_states_leaks_and_lists_plainly(folder):
    provenance = {"protocol": ["random", "file"], "leaks": {"count": 2, "evaluation_images": 12}}
    metrics = write_evaluation(folder, provenance=provenance, resamples=5, figures=False)
    assert metrics["leaks"] == provenance["leaks"]
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "- Protocol: random, file\n" in report
    assert "near-duplicate in training: 2 of 12; the figures are good for comparison" in report


def test_failures_are_listed(folder):
    table = read_predictions(folder)
    table.loc[5, "error"] = "half.png: truncated"
    table.to_csv(folder / "predictions.csv", index=False)
    write_evaluation(folder, resamples=5, figures=False)
    assert "half.png: truncated" in (folder / "report.md").read_text(encoding="utf-8")
    assert not (folder / "figures").exists()


def test_without_a_class_head_the_report_has_masks_only(folder):
    table = read_predictions(folder).drop(columns=["p_normal", "p_benign", "p_malignant"])
    table.to_csv(folder / "predictions.csv", index=False)
    metrics = MetricsReport(resamples=5)
    metrics(folder)
    assert metrics.metrics["classes"] == []
    assert "Accuracy" not in (folder / "report.md").read_text(encoding="utf-8").replace("Pixel", "")


def test_one_class_alone_can_be_reported(folder):
    table = read_predictions(folder)
    table[table["true_class"] == "benign"].to_csv(folder / "predictions.csv", index=False)
    metrics = write_evaluation(folder, resamples=5)
    assert metrics["auc_malignant"]["value"] is None
    assert "| – | – | – |" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_folder_without_truth_is_refused(folder):
    table = read_predictions(folder).drop(columns="true_class")
    table.to_csv(folder / "predictions.csv", index=False)
    with pytest.raises(InputError, match="true_class"):
        write_evaluation(folder)
    assert not (folder / "metrics.json").exists()
