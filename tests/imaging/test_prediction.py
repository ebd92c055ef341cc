from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from busi_monai.cases import CLASSES
from busi_monai.imaging import agreed_finding, choose_class, equalise_contrast, median_filter
from busi_monai.settings import Consistency


def test_no_torch_and_no_monai_are_imported() -> None:
    code = "import sys, busi_monai.imaging as room; [getattr(room, name) for name in room.__all__]"
    code += "; assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [3, 5, 9])
def test_the_median_filter_removes_a_speck_and_keeps_an_edge(size: int) -> None:
    edge = np.zeros((30, 40), dtype=np.float32)
    edge[:, 20:] = 1
    speckled = edge.copy()
    speckled[10, 5] = 1
    assert np.array_equal(median_filter(speckled, size), edge)


def test_equalisation_spreads_a_flat_image() -> None:
    dull = 0.4 + 0.1 * np.random.default_rng(0).random((64, 80)).astype(np.float32)
    equalised = equalise_contrast(dull)
    expected = cv2.createCLAHE(2.0, (8, 8)).apply(np.round(dull * 255).astype(np.uint8))
    assert equalised.dtype == np.float32
    assert np.array_equal(np.round(equalised * 255), expected)
    assert equalised.std() > 1.5 * dull.std()


@pytest.mark.parametrize(
    ("probabilities", "thresholds", "expected"),
    [
        ([0.2, 0.5, 0.3], {}, "benign"),
        ([0.2, 0.5, 0.3], {"malignant": 0.3}, "malignant"),
        ([0.2, 0.5, 0.3], {"malignant": 0.31}, "benign"),
        ([0.1, 0.4, 0.5], {"malignant": 0.6}, "benign"),
        ([0.3, 0.3, 0.4], {"malignant": 0.4, "benign": 0.1}, "malignant"),
        ([0.6, 0.3, 0.1], {"malignant": 0.4, "benign": 0.3}, "benign"),
        ([0.4, 0.35, 0.25], {"normal": 0.5, "benign": 0.5, "malignant": 0.5}, "normal"),
    ],
)
def test_class_thresholds(
    probabilities: list[float], thresholds: dict[str, float], expected: str
) -> None:
    assert choose_class(probabilities, CLASSES, thresholds) == expected


def agreed(
    probabilities: list[float],
    lesion_pixels: int,
    *,
    predicted: str | None = None,
    classes: tuple[str, ...] = CLASSES,
    malignant_threshold: float = 0.5,
    **rule: object,
) -> tuple[str, int]:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask.reshape(-1)[:lesion_pixels] = 1
    name, found = agreed_finding(
        predicted or choose_class(probabilities, classes, {}),
        mask,
        dict(zip(classes, probabilities, strict=True)),
        Consistency(**{"enabled": True, "min_lesion_fraction": 0.01, **rule}),
        malignant_threshold,
    )
    assert int(mask.sum()) == lesion_pixels  # which is left alone
    return name, int(found.sum())


def test_a_tiny_lesion_or_none_makes_the_class_normal_and_empties_the_mask() -> None:
    assert agreed([0.2, 0.7, 0.1], 99) == ("normal", 0)
    assert agreed([0.2, 0.7, 0.1], 100) == ("benign", 100)
    assert agreed([0.2, 0.7, 0.1], 0, min_lesion_fraction=0) == ("normal", 0)
    assert agreed([0.2, 0.7, 0.1], 1, min_lesion_fraction=0) == ("benign", 1)


def test_a_normal_gets_an_empty_mask_unless_switched_off() -> None:
    assert agreed([0.8, 0.1, 0.1], 5000) == ("normal", 0)
    assert agreed([0.8, 0.1, 0.1], 5000, normal_empties_mask=False) == ("normal", 5000)


def test_normal_is_believed_from_its_threshold_on() -> None:
    rule = {"normal_threshold": 0.3}
    assert agreed([0.29, 0.61, 0.1], 5000, **rule) == ("benign", 5000)
    assert agreed([0.31, 0.59, 0.1], 5000, **rule) == ("normal", 0)
    assert agreed([0.4, 0.05, 0.55], 5000, **rule) == ("malignant", 5000)
    found = agreed([0.31, 0.25, 0.44], 5000, malignant_threshold=0.4, **rule)
    assert found == ("malignant", 5000)


@pytest.mark.parametrize("lesion_pixels", [0, 1, 5000])
@pytest.mark.parametrize("predicted", ["normal", "malignant"])
def test_nothing_is_touched_while_malignancy_reaches_its_threshold(
    lesion_pixels: int, predicted: str
) -> None:
    found = agreed([0.6, 0.1, 0.3], lesion_pixels, predicted=predicted, malignant_threshold=0.3)
    assert found == (predicted, lesion_pixels)


def test_systems_of_two_classes() -> None:
    assert agreed([0.9, 0.1], 1, classes=("benign", "malignant")) == ("benign", 1)
    assert agreed([0.9, 0.1], 5000, classes=("normal", "benign")) == ("normal", 0)
