from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.evaluation import (
    calibrate_bundle,
    cross_fitted_probabilities,
    evaluate_predictions,
    fit_operating_points,
)
from busi_monai.files import write_json
from busi_monai.metrics import fit_temperature, rescale_probabilities
from busi_monai.settings import InferenceSettings, load_settings

P = [f"p_{name}" for name in CLASSES]


def too_sure(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The table with the logits times a temperature."""
    values = rescale_probabilities(table[P].to_numpy(), 1 / temperature)
    return table.assign(**dict(zip(P, values.T, strict=True)))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What of a run's folder is asked for: a configuration and the operating point."""
    folder = tmp_path / "run"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.yaml").write_text("{}")
    InferenceSettings(image_size=(64, 96), mask_threshold=0.4).save(folder)
    return folder


@pytest.fixture
def predictions(tmp_path: Path, table: pd.DataFrame) -> Path:
    """Predictions made at temperature 2 by a network that is three times too sure."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    too_sure(table, 1.5).to_csv(folder / "predictions.csv", index=False)
    write_json(folder / "run.json", {"temperature": 2.0, "seen_in_training": 0, "part": "test"})
    return folder


def test_the_temperature_is_that_of_the_logits(
    bundle: Path, predictions: Path, table: pd.DataFrame
) -> None:
    true = [CLASSES.index(name) for name in table["true_class"]]
    expected = 2.0 * fit_temperature(true, too_sure(table, 1.5)[P])
    fitted = calibrate_bundle(bundle, predictions)
    assert fitted.temperature == pytest.approx(expected, rel=0.01)
    assert load_settings(bundle) == fitted


def test_what_else_prediction_depends_on_stays(bundle: Path, predictions: Path) -> None:
    fitted = calibrate_bundle(bundle, predictions)
    assert (fitted.image_size, fitted.mask_threshold) == ((64, 96), 0.4)
    assert fitted.class_thresholds == {}
    assert fitted.calibration["images"] == 200 and fitted.calibration["same_network"] is False
    assert fitted.calibration["split"] == "test" and not fitted.calibration["out_of_fold"]


def test_fitting_again_on_what_was_predicted_then_gives_the_same(
    bundle: Path, predictions: Path, table: pd.DataFrame
) -> None:
    first = calibrate_bundle(bundle, predictions)
    true_logits = too_sure(table, 1.5 * 2.0 / first.temperature)  # what it predicts now
    true_logits.to_csv(predictions / "predictions.csv", index=False)
    write_json(predictions / "run.json", {"temperature": first.temperature})
    again = calibrate_bundle(bundle, predictions)
    assert again.temperature == pytest.approx(first.temperature, rel=0.01)


def test_operating_points_reach_what_they_are_named_after(table: pd.DataFrame) -> None:
    points = fit_operating_points(table, prevalence=0.3)
    assert list(points) == ["sensitivity_90", "sensitivity_95", "sensitivity_98"]
    malignant = table[table["true_class"] == "malignant"]
    for name, point in points.items():
        reached = (malignant["p_malignant"] >= point.threshold).mean()
        assert reached >= float(name.removeprefix("sensitivity_")) / 100
        assert point.sensitivity == pytest.approx(reached, abs=1e-4)
        assert point.missed == round((1 - reached) * len(malignant))
        found = point.sensitivity * 0.3
        alarmed = (1 - point.specificity) * 0.7
        assert point.ppv == pytest.approx(found / (found + alarmed), abs=1e-3)


def test_the_classes_at_an_operating_point_follow_its_threshold(
    bundle: Path, predictions: Path
) -> None:
    fitted = calibrate_bundle(bundle, predictions, sensitivities=[0.8])
    at = load_settings(bundle, "sensitivity_80")
    threshold = fitted.operating_points["sensitivity_80"].threshold
    assert at.class_thresholds == {"malignant": threshold}


def test_what_is_kept_reaches_its_sensitivity_on_what_it_was_fitted_on(
    bundle: Path, predictions: Path, table: pd.DataFrame
) -> None:
    calibrate_bundle(bundle, predictions)
    kept = load_settings(bundle)
    given = too_sure(table, 1.5)[P].to_numpy()
    now = rescale_probabilities(given, kept.temperature / 2.0)[:, 2]
    malignant = (table["true_class"] == "malignant").to_numpy()
    for point in kept.operating_points.values():
        missed = int((now[malignant] < point.threshold).sum())
        assert missed == point.missed


def test_each_folds_temperature_comes_from_the_others(table: pd.DataFrame) -> None:
    folded = too_sure(table, 2.5).assign(fold=np.arange(len(table)) % 4.0)
    fitted = cross_fitted_probabilities(folded, CLASSES)
    for fold in range(4):
        others, members = folded[folded["fold"] != fold], folded[folded["fold"] == fold]
        true = [CLASSES.index(name) for name in others["true_class"]]
        expected = fit_temperature(true, others[P])
        of_fold = fitted[fitted["fold"] == fold]
        assert of_fold["temperature"].to_numpy() == pytest.approx(expected, rel=1e-3)
        rescaled = rescale_probabilities(members[P].to_numpy(), expected)
        assert of_fold[P].to_numpy() == pytest.approx(rescaled, abs=1e-4)
    before, after = (evaluate_predictions(t, resamples=1) for t in (folded, fitted))
    assert after["ece"]["value"] < before["ece"]["value"]
    assert after["accuracy"] == before["accuracy"]


def test_a_folds_own_cases_have_no_part_in_its_temperature(table: pd.DataFrame) -> None:
    folded = table.assign(fold=np.arange(len(table)) % 2.0)
    other = folded.copy()
    of_first = other["fold"] == 0
    other.loc[of_first, "true_class"] = "normal"
    both = (cross_fitted_probabilities(t, CLASSES)[of_first] for t in (folded, other))
    first, second = (found["temperature"].iloc[0] for found in both)
    assert first == second


def test_failed_rows_stay_empty_and_one_fold_stays_as_it_is(table: pd.DataFrame) -> None:
    folded = table.assign(fold=np.arange(len(table)) % 2.0)
    folded.loc[3, [*P]] = np.nan
    folded.loc[3, "error"] = "truncated"
    fitted = cross_fitted_probabilities(folded, CLASSES)
    assert fitted.loc[3, P].isna().all() and fitted[P].notna().sum().min() == len(table) - 1
    alone = table.assign(fold=0.0)
    pd.testing.assert_frame_equal(cross_fitted_probabilities(alone, CLASSES), alone)


def test_probabilities_written_as_zero_do_not_decide_the_temperature() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 3)) * 2
    true = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    sure = rescale_probabilities(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1 / 6)
    lost = np.flatnonzero(sure[np.arange(300), true] < 5e-7)
    assert len(lost) > 2
    table = pd.DataFrame(sure.round(6), columns=P).assign(
        id=[str(index) for index in range(300)],
        true_class=[CLASSES[index] for index in true],
        predicted_class="benign",
        lesion_pixels=0,
        fold=np.arange(300) % 2.0,
        error="",
    )
    exact = fit_temperature(true, sure)
    found = cross_fitted_probabilities(table, CLASSES)["temperature"].mean()
    assert found == pytest.approx(exact, rel=0.05)
    as_zero = fit_temperature(true, sure.round(6))
    assert as_zero > 1.08 * exact


def test_a_table_that_does_not_tell_its_temperature_is_refused(
    bundle: Path, predictions: Path
) -> None:
    (predictions / "run.json").unlink()
    with pytest.raises(InputError, match="does not tell the temperature"):
        calibrate_bundle(bundle, predictions)
    assert load_settings(bundle).temperature == 1.0


def test_images_that_were_trained_on_are_refused(bundle: Path, predictions: Path) -> None:
    write_json(predictions / "run.json", {"temperature": 1.0, "seen_in_training": 12})
    with pytest.raises(InputError, match="12 images that the network was trained on"):
        calibrate_bundle(bundle, predictions)


def test_other_classes_are_refused(bundle: Path, predictions: Path) -> None:
    content = json.loads((bundle / "settings.json").read_text())
    write_json(bundle / "settings.json", {**content, "classes": ["benign", "malignant"]})
    with pytest.raises(InputError, match="both must be the same"):
        calibrate_bundle(bundle, predictions)


def test_no_malignant_case_and_no_known_class_are_told(
    bundle: Path, predictions: Path, table: pd.DataFrame
) -> None:
    benign = table[table["true_class"] == "benign"]
    benign.to_csv(predictions / "predictions.csv", index=False)
    with pytest.raises(InputError, match="at least one positive"):
        calibrate_bundle(bundle, predictions)
    table.assign(true_class="").to_csv(predictions / "predictions.csv", index=False)
    with pytest.raises(InputError, match="no row has a prediction and a true class"):
        calibrate_bundle(bundle, predictions)
