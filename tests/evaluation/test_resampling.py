from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from busi_monai.cases import CLASSES
from busi_monai.evaluation.resampling import (
    group_weights,
    percentile_interval,
    weighted_auc,
    weighted_average_precision,
    weighted_classification_scores,
    weighted_mean,
)
from busi_monai.metrics import classification_scores


def sample(images: int = 80, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, classes)) + np.eye(classes)[true]
    # rounded, so that there are ties
    probabilities = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 2)
    probabilities[:, -1] = 1 - probabilities[:, :-1].sum(axis=1)
    probabilities = np.clip(probabilities, 0, 1)
    predicted = probabilities.argmax(axis=1)
    predicted[:5] = 0
    return true, probabilities, predicted


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    groups = ["a"] * 3 + ["b"] * 2 + ["c"]
    weights = group_weights(groups, 500, seed=4)
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 3, 5]].sum(axis=1) == 3).all()
    assert abs(weights[:, 0].mean() - 1) < 0.1


def test_draws_follow_the_seed():
    first, again, other = (group_weights(range(20), 9, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_no_rows_give_no_weights():
    assert group_weights([], 5, seed=0).shape == (5, 0)


@pytest.mark.parametrize("seed", range(3))
def test_areas_equal_scikit_learns_with_sample_weights(seed):
    true, probabilities, _ = sample(seed=seed)
    positive, scores = true == 1, probabilities[:, 1]
    weights = np.random.default_rng(seed).integers(0, 4, (4, len(true))).astype(float)
    auc = weighted_auc(weights, scores, positive)
    precision = weighted_average_precision(weights, scores, positive)
    for row, w in enumerate(weights):
        assert auc[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=w))
        assert precision[row] == pytest.approx(
            average_precision_score(positive, scores, sample_weight=w)
        )


@pytest.mark.parametrize("classes", [CLASSES, ("benign", "malignant"), ("normal", "benign")])
def test_weighted_scores_are_the_scores_of_repeated_rows(classes):
    true, probabilities, predicted = sample(classes=len(classes))
    rng = np.random.default_rng(5)
    weights = np.stack([np.ones(len(true)), rng.integers(0, 4, len(true))]).astype(float)
    found = weighted_classification_scores(weights, true, probabilities, predicted, classes)
    for row, w in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(true)), w)
        expected = classification_scores(true[rows], probabilities[rows], predicted[rows], classes)
        named = {name: value for name, value in expected.items() if not name.endswith(".n")}
        assert set(found) == set(named)
        for name, value in named.items():
            assert found[name][row] == pytest.approx(value, nan_ok=True), name


def test_a_resample_without_a_class_is_undefined_not_zero():
    true, probabilities, predicted = sample()
    weights = (true != 2).astype(float)[None]
    found = weighted_classification_scores(weights, true, probabilities, predicted, CLASSES)
    assert np.isnan(found["auc_malignant"]).all() and np.isnan(found["auc_macro"]).all()
    assert np.isnan(found["per_class.malignant.recall"]).all()
    assert np.isfinite(found["balanced_accuracy"]).all()


def test_mean_leaves_out_what_is_not_known():
    values = np.array([1.0, np.nan, 3.0])
    assert weighted_mean(np.array([[1.0, 5.0, 3.0]]), values).tolist() == [2.5]
    assert np.isnan(weighted_mean(np.array([[0.0, 1.0, 0.0]]), values)).all()


def test_interval_is_that_of_the_percentiles():
    low, high = percentile_interval(np.arange(1001) / 1000)
    assert (low, high) == pytest.approx((0.025, 0.975))


def test_mostly_undefined_resamples_have_no_interval():
    assert np.isnan(percentile_interval(np.array([1.0, np.nan, np.nan]))).all()
