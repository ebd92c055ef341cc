from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.evaluation import consistent_table
from busi_monai.imaging import agreed_finding
from busi_monai.metrics import segmentation_scores
from busi_monai.settings import Consistency

RULES = (
    Consistency(enabled=True, min_lesion_fraction=0.05),
    Consistency(enabled=True, min_lesion_fraction=0.05, normal_threshold=0.25),
)
RULE = RULES[0]
SIDE = 20


def findings() -> list[tuple[np.ndarray, np.ndarray, list[float]]]:
    """Predicted mask, true mask and probabilities: large, small and no lesions, all classes."""
    rng = np.random.default_rng(0)
    found = []
    for predicted_rows in (0, 1, 5):
        for true_rows in (0, 4):
            for winner in range(3):
                predicted, true = np.zeros((2, SIDE, SIDE), np.uint8)
                predicted[:predicted_rows, :5] = 1
                true[:true_rows] = 1
                probabilities = rng.dirichlet(np.ones(3))
                probabilities[[winner, probabilities.argmax()]] = probabilities[
                    [probabilities.argmax(), winner]
                ]
                found.append((predicted, true, probabilities.tolist()))
    return found


def row(predicted: np.ndarray, true: np.ndarray, probabilities: list[float], name: str) -> dict:
    return {
        "predicted_class": name,
        **{f"p_{of}": value for of, value in zip(CLASSES, probabilities, strict=True)},
        "lesion_pixels": int(predicted.sum()),
        "lesion_fraction": float(predicted.mean()),
        "true_lesion_fraction": float(true.mean()),
        **segmentation_scores(predicted, true),
        "error": "",
    }


@pytest.mark.parametrize("rule", RULES)
def test_a_table_becomes_what_a_prediction_would_have_made(rule: Consistency) -> None:
    given, expected = [], []
    for predicted, true, probabilities in findings():
        name = CLASSES[int(np.argmax(probabilities))]
        by_class = dict(zip(CLASSES, probabilities, strict=True))
        agreed, mask = agreed_finding(name, predicted, by_class, rule, 0.5)
        given.append(row(predicted, true, probabilities, name))
        expected.append(row(mask, true, probabilities, agreed))
    table = consistent_table(pd.DataFrame(given), CLASSES, rule, 0.5)
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected), check_dtype=False)
    assert not table.equals(pd.DataFrame(given))


def test_a_row_with_an_error_stays() -> None:
    predicted, true, probabilities = findings()[0]
    table = pd.DataFrame([row(predicted, true, probabilities, "benign") | {"error": "damaged"}])
    assert consistent_table(table, CLASSES, RULE)["predicted_class"].tolist() == ["benign"]


def test_a_row_without_a_measured_mask_stays() -> None:
    predicted, true, _ = findings()[0]
    known = row(predicted, true, [0.1, 0.8, 0.1], "benign")
    table = pd.DataFrame([known, known | {"dice": np.nan}])
    assert consistent_table(table, CLASSES, RULE)["predicted_class"].tolist() == [
        "normal",
        "benign",
    ]


def test_a_classifier_has_no_masks_to_agree_with() -> None:
    predicted, true, probabilities = findings()[0]
    table = pd.DataFrame([row(predicted, true, probabilities, "benign") | {"dice": np.nan}])
    with pytest.raises(InputError, match="needs masks"):
        consistent_table(table, CLASSES, RULE)


@pytest.mark.parametrize("classes", [("benign", "malignant"), ()])
def test_a_system_without_a_normal_class_is_refused(classes: tuple[str, ...]) -> None:
    table = pd.DataFrame({"predicted_class": ["benign"], "lesion_fraction": [0.0]})
    with pytest.raises(InputError, match="needs normal and malignant"):
        consistent_table(table, classes, RULE)


def test_a_table_without_the_true_areas_is_refused() -> None:
    table = pd.DataFrame(
        {"predicted_class": ["benign"], "lesion_fraction": [0.0], "p_malignant": 0}
    )
    with pytest.raises(InputError, match="needs the columns lesion_pixels, true_lesion_fraction"):
        consistent_table(table, CLASSES, RULE)
