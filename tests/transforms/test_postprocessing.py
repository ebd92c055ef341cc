from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Identityd

from busi_monai.cases import CLASSES
from busi_monai.settings import Consistency, InferenceSettings
from busi_monai.transforms import (
    MaskClassConsistencyd,
    choose_class,
    prediction_postprocessing,
    prediction_preprocessing,
)
from busi_monai.transforms.postprocessing import DecideMaskd

Draw = Callable[..., np.ndarray]
NATIVE = (150, 231)


def _dice(first: torch.Tensor, second: torch.Tensor) -> float:
    first, second = first.bool(), second.bool()
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def _asymmetric_lesion(ellipse: Draw) -> np.ndarray:
    """A lesion that no flip, transposition or shift maps onto itself, not even nearly."""
    big = ellipse(NATIVE, centre=(45, 150), radii=(25, 50))
    small = ellipse(NATIVE, centre=(115, 205), radii=(18, 12))
    return big | small


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
@pytest.mark.parametrize("size", [(128, 128), (96, 160), (160, 128), (300, 320)])
def test_a_perfect_network_gives_back_the_native_mask(
    ellipse: Draw, aspect: str, size: tuple[int, int]
) -> None:
    settings = InferenceSettings(image_size=size, aspect=aspect)
    preprocessing = prediction_preprocessing(settings, with_label=True)
    lesion = _asymmetric_lesion(ellipse)
    item = preprocessing({"image": lesion.astype(np.float32), "label": lesion})
    item["seg"] = item["label"] * 20 - 10
    result = prediction_postprocessing(settings, preprocessing)(item)

    assert result["pred"].dtype == torch.uint8
    assert result["pred"].shape == NATIVE
    assert result["pred_seg"].shape == (1, *NATIVE)
    assert result["pred_seg"].dtype == torch.float32
    assert _dice(result["pred"], item["native_label"][0]) >= 0.97
    true = torch.from_numpy(lesion)
    found = torch.stack([place.float().mean() for place in torch.where(result["pred"])])
    expected = torch.stack([place.float().mean() for place in torch.where(true)])
    assert torch.allclose(found, expected, rtol=0, atol=0.5)


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
def test_a_size_that_needs_no_resizing_is_exact(ellipse: Draw, aspect: str) -> None:
    settings = InferenceSettings(image_size=NATIVE, aspect=aspect)
    preprocessing = prediction_preprocessing(settings)
    lesion = _asymmetric_lesion(ellipse)
    item = preprocessing({"image": lesion.astype(np.float32)})
    item["seg"] = torch.from_numpy(lesion)[None].float() * 20 - 10
    result = prediction_postprocessing(settings, preprocessing)(item)
    assert np.array_equal(result["pred"].numpy(), lesion)


def _item(**outputs: torch.Tensor) -> tuple[Compose, dict[str, Any]]:
    preprocessing = prediction_preprocessing(InferenceSettings(image_size=(16, 16)))
    return preprocessing, {**preprocessing({"image": np.zeros((20, 30))}), **outputs}


@pytest.mark.parametrize(("threshold", "expected"), [(0.4, 1), (0.5, 1), (0.6, 0)])
def test_the_mask_threshold_counts_from_its_value_on(threshold: float, expected: int) -> None:
    result = DecideMaskd(threshold)({"pred_seg": torch.full((1, 4, 6), 0.5)})
    assert torch.equal(result["pred"], torch.full((4, 6), expected, dtype=torch.uint8))


def test_the_operating_points_mask_threshold_is_applied() -> None:
    preprocessing, item = _item(seg=torch.full((1, 16, 16), 1.0))
    for threshold, expected in ((0.7, 600), (0.75, 0)):
        settings = InferenceSettings(image_size=(16, 16), mask_threshold=threshold)
        result = prediction_postprocessing(settings, preprocessing)(item)
        assert int(result["pred"].sum()) == expected


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_class_probabilities_are_the_softmax_of_tempered_logits(temperature: float) -> None:
    logits = torch.tensor([0.3, 2.0, -1.0])
    settings = InferenceSettings(image_size=(16, 16), temperature=temperature)
    preprocessing, item = _item(cls=logits)
    result = prediction_postprocessing(settings, preprocessing)(item)
    expected = torch.exp(logits / temperature)
    assert torch.allclose(result["pred_cls"], expected / expected.sum())
    assert result["predicted_class"] == "benign"


def test_outputs_in_half_precision_become_float32() -> None:
    preprocessing, item = _item(
        seg=torch.zeros(1, 16, 16, dtype=torch.bfloat16), cls=torch.zeros(3, dtype=torch.float16)
    )
    result = prediction_postprocessing(InferenceSettings(image_size=(16, 16)), preprocessing)(item)
    assert result["pred_seg"].dtype == result["pred_cls"].dtype == torch.float32
    assert type(result["pred_seg"]) is torch.Tensor


def test_a_missing_head_leaves_its_results_out() -> None:
    settings = InferenceSettings(image_size=(16, 16), consistency=Consistency(enabled=True))
    preprocessing, item = _item(seg=torch.zeros(1, 16, 16))
    only_mask = prediction_postprocessing(settings, preprocessing)(item)
    assert {"pred", "pred_seg"} <= set(only_mask)
    assert not {"pred_cls", "predicted_class"} & set(only_mask)
    preprocessing, item = _item(cls=torch.zeros(3))
    only_class = prediction_postprocessing(settings, preprocessing)(item)
    assert {"pred_cls", "predicted_class"} <= set(only_class)
    assert not {"pred", "pred_seg"} & set(only_class)


def test_a_binary_system_names_its_own_classes() -> None:
    settings = InferenceSettings(classes=("benign", "malignant"), image_size=(16, 16))
    preprocessing, item = _item(cls=torch.tensor([0.0, 1.0]))
    result = prediction_postprocessing(settings, preprocessing)(item)
    assert result["predicted_class"] == "malignant"


def test_an_image_without_history_is_refused() -> None:
    preprocessing, item = _item(seg=torch.zeros(1, 16, 16))
    postprocessing = prediction_postprocessing(
        InferenceSettings(image_size=(16, 16)), preprocessing
    )
    for image in (item["image"].as_tensor(), MetaTensor(torch.zeros(1, 16, 16))):
        with pytest.raises(RuntimeError) as caught:
            postprocessing({**item, "image": image})
        assert "history" in str(caught.value.__cause__)


def test_a_preprocessing_without_way_back_is_refused() -> None:
    with pytest.raises(ValueError, match="invertible"):
        prediction_postprocessing(InferenceSettings(), Compose([Identityd("image")]))


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


def _agree(
    probabilities: list[float],
    lesion_pixels: int,
    rule: Consistency | None = None,
    *,
    predicted: str | None = None,
    classes: tuple[str, ...] = CLASSES,
    malignant_threshold: float = 0.5,
) -> tuple[str, int]:
    mask = torch.zeros(100, 100, dtype=torch.uint8)
    mask.view(-1)[:lesion_pixels] = 1
    item = {
        "pred": mask,
        "pred_cls": torch.tensor(probabilities),
        "predicted_class": predicted or choose_class(probabilities, classes, {}),
    }
    before = item["pred_cls"].clone()
    rule = rule or Consistency(enabled=True, min_lesion_fraction=0.01)
    agreed = MaskClassConsistencyd(classes, rule, malignant_threshold)(item)
    assert torch.equal(agreed["pred_cls"], before)
    assert int(item["pred"].sum()) == lesion_pixels
    return agreed["predicted_class"], int(agreed["pred"].sum())


def test_a_tiny_lesion_makes_the_class_normal_and_empties_the_mask() -> None:
    assert _agree([0.2, 0.7, 0.1], 99) == ("normal", 0)
    assert _agree([0.2, 0.7, 0.1], 100) == ("benign", 100)


def test_no_lesion_makes_the_class_normal_whatever_the_smallest_area() -> None:
    rule = Consistency(enabled=True, min_lesion_fraction=0)
    assert _agree([0.2, 0.7, 0.1], 0, rule) == ("normal", 0)
    assert _agree([0.2, 0.7, 0.1], 1, rule) == ("benign", 1)


def test_a_normal_gets_an_empty_mask_unless_switched_off() -> None:
    assert _agree([0.8, 0.1, 0.1], 5000) == ("normal", 0)
    keep = Consistency(enabled=True, min_lesion_fraction=0.01, normal_empties_mask=False)
    assert _agree([0.8, 0.1, 0.1], 5000, keep) == ("normal", 5000)


def test_normal_is_believed_from_its_threshold_on() -> None:
    rule = Consistency(enabled=True, min_lesion_fraction=0.01, normal_threshold=0.3)
    assert _agree([0.29, 0.61, 0.1], 5000, rule) == ("benign", 5000)
    assert _agree([0.31, 0.59, 0.1], 5000, rule) == ("normal", 0)
    assert _agree([0.4, 0.05, 0.55], 5000, rule) == ("malignant", 5000)
    assert _agree([0.31, 0.25, 0.44], 5000, rule, malignant_threshold=0.4) == ("malignant", 5000)


@pytest.mark.parametrize("lesion_pixels", [0, 1, 5000])
@pytest.mark.parametrize("predicted", ["normal", "malignant"])
def test_nothing_is_touched_while_malignancy_reaches_its_threshold(
    lesion_pixels: int, predicted: str
) -> None:
    agreed = _agree([0.6, 0.1, 0.3], lesion_pixels, predicted=predicted, malignant_threshold=0.3)
    assert agreed == (predicted, lesion_pixels)


def test_a_system_without_normals_stays_as_it_is() -> None:
    assert _agree([0.9, 0.1], 1, classes=("benign", "malignant")) == ("benign", 1)


def test_a_system_without_malignant_is_ruled_by_normal_alone() -> None:
    assert _agree([0.9, 0.1], 5000, classes=("normal", "benign")) == ("normal", 0)


def test_the_rule_is_off_by_default_and_on_by_the_operating_point() -> None:
    outputs = {"seg": torch.full((1, 16, 16), 5.0), "cls": torch.tensor([3.0, 0.0, 0.0])}
    for enabled, expected in ((False, 20 * 30), (True, 0)):
        settings = InferenceSettings(
            image_size=(16, 16), consistency=Consistency(enabled=True) if enabled else Consistency()
        )
        preprocessing, item = _item(**outputs)
        result = prediction_postprocessing(settings, preprocessing)(item)
        assert result["predicted_class"] == "normal"
        assert int(result["pred"].sum()) == expected


def test_the_rule_spares_what_the_malignant_threshold_of_the_operating_point_says() -> None:
    outputs = {"seg": torch.full((1, 16, 16), 5.0), "cls": torch.tensor([0.6, 0.1, 0.3]).log()}
    settings = InferenceSettings(
        image_size=(16, 16),
        class_thresholds={"malignant": 0.29},
        consistency=Consistency(enabled=True),
    )
    preprocessing, item = _item(**outputs)
    result = prediction_postprocessing(settings, preprocessing)(item)
    assert result["predicted_class"] == "malignant"
    assert bool(result["pred"].all())
