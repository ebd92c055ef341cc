from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busi_monai.cases import CLASSES
from busi_monai.curation import load_datalist
from busi_monai.errors import InputError
from busi_monai.evaluation import TITLES, evaluate_table, read_predictions
from busi_monai.io.images import read_mask, write_mask
from busi_monai.metrics import segmentation_scores
from busi_monai.settings import Consistency

Make = Callable[..., Path]


@pytest.fixture
def make_predictions(folds: Path, tmp_path: Path, make_table: Callable[..., pd.DataFrame]) -> Make:
    """Predictions for the first ``images`` of the prepared phantoms, with masks moved aside."""

    def make(images: int = 24, *, masks: bool = False) -> Path:
        items = load_datalist(folds).records()[:images]
        table = make_table(len(items)).assign(
            id=[item["id"] for item in items],
            fold=[item["fold"] for item in items],
            true_class="benign",
            group="",
        )
        folder = tmp_path / "kept"
        folder.mkdir()
        table.to_csv(folder / "predictions.csv", index=False)
        for item in items if masks else ():
            true = read_mask(folds / item["label"])
            write_mask(folder / "masks" / f"{item['id']}.png", np.roll(true, 4, axis=1))
        return folder

    return make


def test_truth_and_groups_come_from_the_dataset(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    out = evaluate_table(make_predictions(), tmp_path / "out", dataset=folds, resamples=20)
    items = {item["id"]: item for item in load_datalist(folds).records()}
    measured = read_predictions(out)
    for row in measured.to_dict("records"):
        assert row["true_class"] == CLASSES[items[row["id"]]["class_label"]]
        assert row["group"] == items[row["id"]]["group"]
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    right = (measured["true_class"] == measured["predicted_class"]).mean()
    assert metrics["accuracy"]["value"] == pytest.approx(right, abs=1e-6)
    assert metrics["datalist_sha256"] == [load_datalist(folds).sha256]
    assert metrics["leaks"] == {"count": 0, "evaluation_images": 24}
    assert metrics["missing_images"] == 0
    assert (out / "report.md").is_file() and (out / "run.json").is_file()


def test_a_table_is_measured_with_the_consistency_rule(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    given = make_predictions(masks=True)
    rule = Consistency(min_lesion_fraction=0.05)
    out = evaluate_table(given, tmp_path / "out", dataset=folds, consistency=rule, resamples=5)
    table, before = read_predictions(out), read_predictions(given)
    empty = (table["lesion_pixels"] == 0) & (table["lesion_fraction"] == 0)
    changed = empty & (table["p_malignant"] < 0.5)
    assert 0 < changed.sum() < len(table)
    assert set(table["predicted_class"][changed]) == {"normal"}
    assert (table["predicted_class"][~changed] == before["predicted_class"][~changed]).all()
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["consistency"]["min_lesion_fraction"] == 0.05
    assert metrics["normal_clean_rate"]["value"] > 0


def test_the_rule_spares_what_the_tables_own_threshold_calls_malignant(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    given = make_predictions(masks=True)
    rule = Consistency(min_lesion_fraction=1.0)
    (given / "run.json").write_text('{"class_thresholds": {"malignant": 0.2}}', "utf-8")
    out = evaluate_table(given, tmp_path / "out", dataset=folds, consistency=rule, resamples=5)
    table = read_predictions(out)
    spared = table["p_malignant"] >= 0.2
    assert 0 < spared.sum() < len(table)
    before = read_predictions(given)["predicted_class"]
    assert (table["predicted_class"] == before.where(spared, "normal")).all()
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["consistency"]["malignant_threshold"] == 0.2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"consistency": true}', "on already"),
        ('{"operating_point": "sensitivity_95"}', "does not tell the threshold of sensitivity_95"),
    ],
)
def test_a_table_that_the_rule_cannot_be_added_to_is_refused(
    make_predictions: Make, folds: Path, tmp_path: Path, record: str, message: str
) -> None:
    given = make_predictions(masks=True)
    (given / "run.json").write_text(record, "utf-8")
    with pytest.raises(InputError, match=message):
        evaluate_table(given, tmp_path / "out", dataset=folds, consistency=Consistency())


def test_masks_that_were_kept_are_measured_anew(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    out = evaluate_table(make_predictions(masks=True), tmp_path / "out", dataset=folds, resamples=5)
    items = {item["id"]: item for item in load_datalist(folds).records()}
    for row in read_predictions(out).to_dict("records"):
        true = read_mask(folds / items[row["id"]]["label"])
        expected = segmentation_scores(np.roll(true, 4, axis=1), true)
        assert row["dice"] == pytest.approx(expected["dice"], abs=1e-6)
        assert row["lesion_pixels"] == true.sum()


def test_ids_probabilities_and_masks_of_another_program_are_enough(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    given = make_predictions(masks=True)
    table = pd.read_csv(given / "predictions.csv")
    likeliest = table[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)
    kept = ["id", *(f"p_{name}" for name in CLASSES)]
    table[kept].to_csv(given / "other.csv", index=False)
    named = shutil.copytree(folds, tmp_path / "named")
    replace(load_datalist(folds), name="phantoms-v1").save(named / "datalist.json")
    out = evaluate_table(given / "other.csv", tmp_path / "out", dataset=named, resamples=5)
    assert "- Datalist: phantoms-v1\n" in (out / "report.md").read_text(encoding="utf-8")
    measured = read_predictions(out)
    assert list(measured["predicted_class"]) == [CLASSES[index] for index in likeliest]
    whole = evaluate_table(given, tmp_path / "whole", dataset=folds, resamples=5)
    for name in ("lesion_dice", "all_dice", "hd95_px", "auc_macro", "ece", "leaks"):
        found, expected = (
            json.loads((f / "metrics.json").read_text("utf-8")) for f in (out, whole)
        )
        assert found[name] == expected[name], name


def test_a_row_without_its_mask_is_refused(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    given = make_predictions(masks=True)
    name = pd.read_csv(given / "predictions.csv")["id"][3]
    (given / "masks" / f"{name}.png").unlink()
    with pytest.raises(InputError, match=rf"lacks the masks of 1 images: {re.escape(name)}; "):
        evaluate_table(given, tmp_path / "out", dataset=folds)


def test_an_image_with_two_rows_is_refused(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    given = make_predictions()
    table = pd.read_csv(given / "predictions.csv")
    pd.concat([table, table[:1]]).to_csv(given / "predictions.csv", index=False)
    with pytest.raises(
        InputError, match=rf"1 images have several rows: {re.escape(table['id'][0])}"
    ):
        evaluate_table(given, tmp_path / "out", dataset=folds)


def test_the_figures_of_an_evaluation_come_out_again(
    tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    from busi_monai.training import run_evaluation

    overrides = {"device_name": "cpu", "resamples": 20}
    first = run_evaluation(tiny_run, [phantom_prepared], tmp_path / "first", overrides=overrides)
    for source in (first, first / "predictions.csv"):
        out = tmp_path / f"again from {source.name}"
        again = evaluate_table(source, out, dataset=phantom_prepared, resamples=20)
        old, new = (json.loads((f / "metrics.json").read_text("utf-8")) for f in (first, again))
        for name in ("lesion_dice", "all_dice", "hd95_px", "accuracy", "ece", "per_class", "leaks"):
            assert new[name] == old[name], name


def test_a_table_of_other_masks_is_refused_unless_they_are_measured_anew(
    tiny_run: Path, phantom_prepared: Path, corrected_prepared: Path, tmp_path: Path
) -> None:
    from busi_monai.training import run_evaluation

    overrides = {"device_name": "cpu", "resamples": 5, "overlays": False}
    first = run_evaluation(tiny_run, [phantom_prepared], tmp_path / "first", overrides=overrides)
    table = shutil.copy(first / "predictions.csv", tmp_path / "table.csv")
    out = evaluate_table(table, tmp_path / "same", dataset=phantom_prepared, resamples=5)
    labels = [load_datalist(phantom_prepared).labels_sha256]
    assert json.loads((out / "metrics.json").read_text("utf-8"))["labels_sha256"] == labels
    told = r"measured against other masks than those of the dataset: \d+ cases: .*, to measure them"
    with pytest.raises(InputError, match=told):
        evaluate_table(table, tmp_path / "out", dataset=corrected_prepared, resamples=5)
    anew = evaluate_table(first, tmp_path / "out", dataset=corrected_prepared, resamples=5)
    masks = {item["id"]: item["label_sha256"] for item in load_datalist(corrected_prepared).test}
    measured = read_predictions(anew)
    assert measured["label_sha256"].tolist() == [masks[id] for id in measured["id"]]


def test_a_table_of_an_earlier_version_claims_no_masks(
    make_predictions: Make, folds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = make_predictions() / "predictions.csv"
    out = evaluate_table(table, tmp_path / "out", dataset=folds, resamples=5)
    assert "labels_sha256" not in json.loads((out / "metrics.json").read_text("utf-8"))
    assert [m.startswith(f"{table} has hashes of its images only") for m in caplog.messages].count(
        True
    ) == 1


def test_images_that_the_table_lacks_are_told(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    out = evaluate_table(make_predictions(20), tmp_path / "out", dataset=folds, resamples=5)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["missing_images"] == 4
    assert "table lacks: 4" in (out / "report.md").read_text(encoding="utf-8")


def test_without_a_dataset_the_tables_own_truth_is_taken(
    make_predictions: Make, tmp_path: Path
) -> None:
    out = evaluate_table(make_predictions(), tmp_path / "out", resamples=5)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["per_class"]["benign"]["n"] == 24 and "leaks" not in metrics


def test_images_of_another_dataset_are_refused(
    make_predictions: Make, phantom_prepared: Path, folds: Path, tmp_path: Path
) -> None:
    folder = make_predictions()
    table = pd.read_csv(folder / "predictions.csv")
    table.loc[2, "id"] = "stranger (1)"
    table.to_csv(folder / "predictions.csv", index=False)
    with pytest.raises(InputError, match=r"1 of 24 images are not in the dataset: stranger \(1\)"):
        evaluate_table(folder, tmp_path / "out", dataset=folds)
    assert not (tmp_path / "out").exists()


def test_other_folds_than_those_of_the_dataset_are_refused(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    folder = make_predictions()
    table = pd.read_csv(folder / "predictions.csv")
    table["fold"] = (table["fold"] + 1) % 3
    table.to_csv(folder / "predictions.csv", index=False)
    with pytest.raises(InputError, match="24 images stand in other folds"):
        evaluate_table(folder, tmp_path / "out", dataset=folds)


def test_a_mask_of_another_size_is_refused(
    make_predictions: Make, folds: Path, tmp_path: Path
) -> None:
    folder = make_predictions(masks=True)
    name = pd.read_csv(folder / "predictions.csv")["id"][0]
    write_mask(folder / "masks" / f"{name}.png", np.ones((10, 10)))
    with pytest.raises(InputError, match=r"has \(10, 10\) pixels"):
        evaluate_table(folder, tmp_path / "out", dataset=folds)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("place", "rule"),
    [("out_of_fold", None), ("out_of_fold_with_rule/busi", Consistency(normal_threshold=0.4))],
)
def test_the_kept_out_of_fold_table_gives_its_figures_again(
    busi_folds: Path, repository: Path, tmp_path: Path, place: str, rule: Consistency | None
) -> None:
    results = repository / "docs" / "results"
    out = evaluate_table(
        results / "out_of_fold", tmp_path / "out", dataset=busi_folds, consistency=rule
    )
    found, kept = (
        json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        for folder in (out, results / place)
    )
    assert found["datalist_sha256"] == kept["datalist_sha256"]
    assert found["leaks"] == {"count": 0, "evaluation_images": 760} and not found["missing_images"]
    assert kept.keys() >= TITLES.keys()
    for name in TITLES.keys() & kept.keys():
        assert found[name] == pytest.approx(kept[name], abs=1e-6), name
