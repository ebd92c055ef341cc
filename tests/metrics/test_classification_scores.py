from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from busi_monai.cases import CLASSES
from busi_monai.metrics import (
    average_precision,
    classification_scores,
    confusion_matrix,
    roc_auc,
    weighted_mean,
    weighted_scores,
)

Table = tuple[np.ndarray, np.ndarray, np.ndarray]
NAMES = {
    2: ("benign", "malignant"),
    3: CLASSES,
}


def _table(n: int, n_classes: int, skill: float, ties: bool, seed: int = 0) -> Table:
    """True classes, probabilities and predicted classes, some of them not the most probable."""
    rng = np.random.default_rng(seed)
    true = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    logits = rng.normal(size=(n, n_classes)) + skill * np.eye(n_classes)[true]
    if ties:
        logits = np.round(logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    predicted[::7] = n_classes - 1
    return true, probabilities, predicted


TABLES = [
    pytest.param(_table(n, n_classes, skill, ties), id=f"{n}-{n_classes}-{skill}-{ties}")
    for n in (12, 200)
    for n_classes in (2, 3)
    for skill in (0.0, 1.5)
    for ties in (False, True)
]


@pytest.mark.parametrize("table", TABLES)
def test_counts_equal_scikit_learns(table: Table) -> None:
    true, probabilities, predicted = table
    n_classes = probabilities.shape[1]
    assert np.array_equal(
        confusion_matrix(true, predicted, n_classes),
        reference.confusion_matrix(true, predicted, labels=range(n_classes)),
    )
    scores = classification_scores(true, probabilities, predicted, NAMES[n_classes])
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(true, predicted)
    )
    for average in ("macro", "weighted"):
        assert scores[f"{average}_f1"] == pytest.approx(
            reference.f1_score(true, predicted, average=average)
        )


@pytest.mark.parametrize("table", TABLES)
def test_scores_per_class_equal_scikit_learns(table: Table) -> None:
    true, probabilities, predicted = table
    names = NAMES[probabilities.shape[1]]
    scores = classification_scores(true, probabilities, predicted, names)
    columns = reference.precision_recall_fscore_support(
        true, predicted, labels=range(len(names)), zero_division=np.nan
    )
    for k, name in enumerate(names):
        for kind, column in zip(("precision", "recall", "f1", "n"), columns, strict=True):
            assert scores[f"per_class.{name}.{kind}"] == pytest.approx(column[k], nan_ok=True)
        assert scores[f"per_class.{name}.auc"] == pytest.approx(
            reference.roc_auc_score(true == k, probabilities[:, k])
        )


@pytest.mark.parametrize("table", TABLES)
def test_areas_equal_scikit_learns(table: Table) -> None:
    true, probabilities, predicted = table
    names = NAMES[probabilities.shape[1]]
    scores = classification_scores(true, probabilities, predicted, names)
    areas = [reference.roc_auc_score(true == k, probabilities[:, k]) for k in range(len(names))]
    if len(names) == 3:
        assert scores["auc_macro"] == pytest.approx(
            reference.roc_auc_score(true, probabilities, multi_class="ovr")
        )
    assert scores["auc_macro"] == pytest.approx(np.mean(areas))
    assert scores["auc_malignant"] == pytest.approx(areas[-1])
    precisions = [
        reference.average_precision_score(true == k, probabilities[:, k]) for k in range(len(names))
    ]
    assert scores["average_precision_macro"] == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize("table", TABLES)
def test_benign_against_malignant_looks_at_true_lesions_only(table: Table) -> None:
    true, probabilities, predicted = table
    names = NAMES[probabilities.shape[1]]
    benign, malignant = names.index("benign"), names.index("malignant")
    lesions = true != names.index("normal") if "normal" in names else np.full(len(true), True)
    share = probabilities[:, malignant] / (probabilities[:, benign] + probabilities[:, malignant])
    expected = reference.roc_auc_score(true[lesions] == malignant, share[lesions])
    scores = classification_scores(true, probabilities, predicted, names)
    assert scores["auc_benign_malignant"] == pytest.approx(expected)


def test_benign_against_malignant_with_neither_probable() -> None:
    probabilities = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    scores = classification_scores([2, 1], probabilities, [0, 1])
    assert scores["auc_benign_malignant"] == 1


def test_auc_is_the_chance_to_rank_a_pair_right() -> None:
    rng = np.random.default_rng(0)
    positive, score = rng.random(50) > 0.6, rng.integers(0, 8, 50)
    pairs = score[positive][:, None] - score[~positive][None]
    assert roc_auc(positive, score) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_a_class_without_images_leaves_its_figures_undefined() -> None:
    probabilities = np.array([[0.1, 0.6, 0.3], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
    scores = classification_scores([1, 2, 1], probabilities, [1, 2, 1])
    undefined = {name for name, value in scores.items() if math.isnan(value)}
    assert undefined == {
        "auc_macro",
        "average_precision_macro",
        "per_class.normal.precision",
        "per_class.normal.recall",
        "per_class.normal.f1",
        "per_class.normal.auc",
    }
    assert scores["macro_f1"] == scores["balanced_accuracy"] == 1
    assert scores["auc_benign_malignant"] == 1
    assert scores["per_class.normal.n"] == 0


def test_one_class_alone_has_no_area() -> None:
    scores = classification_scores([2, 2], [[0.2, 0.2, 0.6], [0.5, 0.3, 0.2]], [2, 0])
    assert scores["accuracy"] == 0.5
    for name in ("auc_macro", "auc_malignant", "auc_benign_malignant"):
        assert math.isnan(scores[name])
    assert scores["per_class.normal.f1"] == 0


def test_a_system_without_malignant_has_no_figure_of_it() -> None:
    scores = classification_scores([0, 1], [[0.9, 0.1], [0.2, 0.8]], [0, 1], ("normal", "benign"))
    assert math.isnan(scores["auc_malignant"])
    assert math.isnan(scores["auc_benign_malignant"])
    assert scores["auc_macro"] == 1


def test_no_images_have_no_figures() -> None:
    scores = classification_scores([], np.zeros((0, 3)), [])
    assert all(math.isnan(v) for name, v in scores.items() if not name.endswith(".n"))
    assert np.isnan(average_precision([], [])).all()


def test_the_names_are_those_of_metrics_json() -> None:
    true, probabilities, predicted = _table(20, 3, 1.0, False)
    names = list(classification_scores(true, probabilities, predicted))
    assert names[:10] == [
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "weighted_f1",
        "auc_macro",
        "auc_malignant",
        "auc_benign_malignant",
        "average_precision_macro",
        "ece",
        "brier",
    ]
    assert names[10:] == [
        f"per_class.{name}.{kind}"
        for name in CLASSES
        for kind in ("precision", "recall", "f1", "auc", "n")
    ]


FAIR = np.full((2, 3), 1 / 3)


@pytest.mark.parametrize(
    ("true", "probabilities", "predicted", "message"),
    [
        ([0, 3], FAIR, [0, 0], "true: expected class indices from 0 to 2, got 0 to 3"),
        ([0, -1], FAIR, [0, 0], "true.*leave out"),
        ([0, 1], FAIR, [0, 5], "predicted: expected class indices"),
        ([0, 1], FAIR, [0], "2 true classes, but 1 predicted"),
        ([0], FAIR, [0], "1 true classes, but probabilities of 2"),
        ([0.5, 1], FAIR, [0, 0], "integer"),
        ([[0], [1]], FAIR, [0, 0], r"shape \(N,\)"),
        ([0, 1], [3.0, -1.0], [0, 0], r"shape \(N, C\)"),
        ([0, 1], FAIR * 2, [0, 0], "logits"),
        ([0, 1], [[1.5, -0.5, 0.0]] * 2, [0, 0], "logits"),
        ([0, 1], [[np.nan] * 3] * 2, [0, 0], "logits"),
        ([0, 1], [[0.5, 0.5]] * 2, [0, 0], "2 probabilities for 3 classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    true: object, probabilities: object, predicted: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classification_scores(true, probabilities, predicted)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weighted_scores_are_the_scores_of_repeated_rows(n_classes: int) -> None:
    true, probabilities, predicted = _table(80, n_classes, 1.0, True)
    weights = np.random.default_rng(5).integers(0, 4, (3, len(true))).astype(float)
    weights[2] = true != n_classes - 1  # a resample without malignant
    found = weighted_scores(weights, true, probabilities, predicted, NAMES[n_classes])
    assert np.isnan(found["auc_malignant"][2]) and np.isnan(found["auc_macro"][2])
    assert np.isnan(found["per_class.malignant.recall"][2])
    for row, times in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(true)), times)
        expected = classification_scores(
            true[rows], probabilities[rows], predicted[rows], NAMES[n_classes]
        )
        assert {name: values[row] for name, values in found.items()} == pytest.approx(
            expected, nan_ok=True
        )


def test_a_mean_leaves_out_what_is_not_known() -> None:
    values = np.array([1.0, np.nan, 3.0])
    weights = np.array([[1.0, 5.0, 3.0], [0.0, 1.0, 0.0]])
    assert weighted_mean(weights, values) == pytest.approx([2.5, np.nan], nan_ok=True)
