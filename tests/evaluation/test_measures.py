from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.evaluation import TITLES, evaluate_predictions, figure_value
from busi_monai.evaluation.measures import (
    CLASS_FIGURES,
    _group_dice,
    is_mask_figure,
    resampled_figures,
)
from busi_monai.evaluation.resampling import group_weights


def test_every_figure_of_the_design_has_value_interval_and_count(table):
    metrics = evaluate_predictions(table, resamples=200)
    for name in TITLES:
        figure = metrics[name]
        assert set(figure) == {"value", "low", "high", "n"}
        assert figure["low"] <= figure["value"] <= figure["high"] or name in {"ece", "hd95_px"}
    assert list(metrics["per_class"]) == list(CLASSES)
    assert set(metrics["per_class"]["benign"]) == {
        "precision", "recall", "f1", "auc", "dice", "n"
    }  # fmt: skip


def test_the_mean_over_groups_counts_a_sweep_once_in_every_resample(table):
    groups = ["sweep" if number < 9 else f"g{number // 2}" for number in range(len(table))]
    table = table.assign(group=groups)
    lesions = table[table["true_class"] != "normal"]
    figure = evaluate_predictions(table, resamples=50)["lesion_dice_by_group"]
    assert figure["value"] == pytest.approx(
        lesions.groupby("group")["dice"].mean().mean(), abs=1e-6
    )
    assert figure["n"] == lesions["group"].nunique()
    weights = group_weights(groups, 3, seed=0)
    found = by_repeating(table, weights)
    assert found == pytest.approx(_group_dice(table.assign(_group=groups), weights).samples)


def by_repeating(table, weights):
    """Each group as often as it was drawn, and each draw a group of its own."""
    means = []
    for row in weights.astype(int):
        drawn = table.assign(times=row)
        drawn = drawn[(drawn["true_class"] != "normal") & (drawn["times"] > 0)]
        of_groups = drawn.groupby("group").agg({"dice": "mean", "times": "first"})
        means.append(np.repeat(of_groups["dice"], of_groups["times"]).mean())
    return means


def test_values_equal_independent_computations(table):
    metrics = evaluate_predictions(table, resamples=10)
    true = table["true_class"]
    lesions = table[true != "normal"]
    normals = table[true == "normal"]
    assert figure_value(metrics, "lesion_dice") == pytest.approx(lesions["dice"].mean(), abs=1e-6)
    assert metrics["lesion_dice"]["n"] == len(lesions)
    assert figure_value(metrics, "all_dice") == pytest.approx(table["dice"].mean(), abs=1e-6)
    clean = (normals["lesion_pixels"] == 0).mean()
    assert figure_value(metrics, "normal_clean_rate") == pytest.approx(clean, abs=1e-6)
    assert metrics["normal_clean_rate"]["n"] == len(normals)
    predicted = table["predicted_class"]
    labels = list(CLASSES)
    assert figure_value(metrics, "macro_f1") == pytest.approx(
        f1_score(true, predicted, labels=labels, average="macro"), abs=1e-6
    )
    auc = roc_auc_score(true == "malignant", table["p_malignant"])
    assert figure_value(metrics, "per_class.malignant.auc") == pytest.approx(auc, abs=1e-6)
    assert figure_value(metrics, "auc_malignant") == pytest.approx(auc, abs=1e-6)
    assert metrics["auc_benign_malignant"]["n"] == len(lesions)
    expected = confusion_matrix(true, predicted, labels=labels).tolist()
    assert metrics["confusion_matrix"]["counts"] == expected
    benign = table[true == "benign"]
    assert figure_value(metrics, "per_class.benign.dice") == pytest.approx(
        benign["dice"].mean(), abs=1e-6
    )
    assert metrics["per_class"]["benign"]["n"] == len(benign)


def test_hausdorff_is_over_lesions_that_were_found(table):
    metrics = evaluate_predictions(table, resamples=10)
    found = (table["true_class"] != "normal") & (table["lesion_pixels"] > 0)
    assert metrics["hd95_px"] == {"value": 12.0, "low": 12.0, "high": 12.0, "n": int(found.sum())}


def test_the_true_mask_says_what_a_lesion_is_where_its_area_is_told(table):
    table.loc[table["true_class"] == "benign", "true_lesion_pixels"] = 0.0
    metrics = evaluate_predictions(table, resamples=10)
    assert metrics["lesion_dice"]["n"] == (table["true_class"] == "malignant").sum()


def test_an_image_without_a_drawn_mask_counts_for_the_class_alone(table):
    masks = ["dice", "iou", "mean_iou", "pixel_accuracy", "hd95_px", "true_lesion_pixels"]
    table.loc[:9, masks] = np.nan
    metrics = evaluate_predictions(table, resamples=10)
    assert metrics["all_dice"]["n"] == len(table) - 10
    assert metrics["accuracy"]["n"] == len(table)


def test_same_seed_same_intervals(table):
    first, again = (evaluate_predictions(table, seed=3, resamples=50) for _ in range(2))
    assert first == again
    assert first["accuracy"] != evaluate_predictions(table, seed=4, resamples=50)["accuracy"]


def test_interval_matches_the_binomial_one_for_independent_images(make_table):
    table = make_table(400, groups=None)
    figure = evaluate_predictions(table, resamples=2000)["accuracy"]
    half = 1.96 * np.sqrt(figure["value"] * (1 - figure["value"]) / 400)
    assert (figure["high"] - figure["low"]) / 2 == pytest.approx(half, rel=0.1)


def test_groups_widen_the_interval(make_table):
    table = make_table(300, groups=None)
    copies = table.loc[np.repeat(np.arange(60), 5)].reset_index(drop=True)
    alone = evaluate_predictions(copies, groups=range(300), resamples=500)["all_dice"]
    grouped = evaluate_predictions(copies, groups=copies["id"].tolist(), resamples=500)["all_dice"]
    assert grouped["value"] == alone["value"]
    assert grouped["high"] - grouped["low"] > 1.8 * (alone["high"] - alone["low"])


def test_what_cannot_be_told_is_null(table):
    benign = table[table["true_class"] == "benign"]
    metrics = evaluate_predictions(benign, resamples=20)
    for name in ("auc_macro", "auc_malignant", "auc_benign_malignant", "normal_clean_rate"):
        assert (metrics[name]["value"], metrics[name]["low"]) == (None, None)
    assert metrics["normal_clean_rate"]["n"] == 0
    assert metrics["accuracy"]["value"] is not None


def test_failed_images_are_counted_and_left_out(table):
    table.loc[:3, "error"] = "unreadable"
    table.loc[:3, ["p_normal", "p_benign", "p_malignant", "dice", "lesion_pixels"]] = np.nan
    table.loc[:3, "predicted_class"] = ""
    metrics = evaluate_predictions(table, resamples=10)
    assert (metrics["images"], metrics["failed"]) == (len(table) - 4, 4)


def test_a_binary_system_is_measured_on_its_own_classes(table):
    two = table.drop(columns="p_normal")
    total = two["p_benign"] + two["p_malignant"]
    two["p_benign"], two["p_malignant"] = two["p_benign"] / total, two["p_malignant"] / total
    two["predicted_class"] = np.where(two["p_benign"] > 0.5, "benign", "malignant")
    metrics = evaluate_predictions(two, classes=("benign", "malignant"), resamples=10)
    assert metrics["accuracy"]["n"] == (two["true_class"] != "normal").sum()
    assert metrics["auc_malignant"]["value"] == metrics["auc_benign_malignant"]["value"]
    assert list(metrics["per_class"]) == ["benign", "malignant"]


def test_masks_of_unknown_class_leave_the_class_figures_null(table):
    table["true_class"] = ""
    metrics = evaluate_predictions(table, resamples=10)
    assert metrics["accuracy"] == {"value": None, "low": None, "high": None, "n": 0}
    assert metrics["lesion_dice"]["n"] == (table["true_lesion_pixels"] > 0).sum()
    assert "per_class" not in metrics


def test_without_a_class_head_there_are_mask_figures_only(table):
    masks = table.drop(columns=["p_normal", "p_benign", "p_malignant"])
    masks["predicted_class"] = ""
    metrics = evaluate_predictions(masks, classes=(), resamples=10)
    assert metrics["lesion_dice"]["value"] and "accuracy" not in metrics


def test_no_usable_row_is_an_error(table):
    table["error"] = "unreadable"
    with pytest.raises(InputError, match="none of the 200 rows"):
        evaluate_predictions(table)


def test_wrong_arguments_are_told(table):
    with pytest.raises(InputError, match="one group for each of 200 rows, got 3"):
        evaluate_predictions(table, groups=["a", "b", "c"])
    with pytest.raises(InputError, match="resamples"):
        evaluate_predictions(table, resamples=0)


def test_an_unknown_figure_is_told(table):
    with pytest.raises(InputError, match="no figure 'lesion_area'"):
        figure_value({}, "lesion_area")


def test_figures_are_of_masks_or_classes_and_those_shown_have_titles(table):
    from busi_monai.cli import compare, evaluate

    found = resampled_figures(table, np.ones((1, len(table))))
    of_classes = [name for name in found if not is_mask_figure(name) and "." not in name]
    assert sorted(of_classes) == sorted(CLASS_FIGURES)
    assert {*compare.SHOWN, *evaluate.SHOWN} <= TITLES.keys()
