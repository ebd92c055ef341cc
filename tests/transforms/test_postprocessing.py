from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Identityd

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import shipped_bundles
from busi_monai.cases import CLASSES
from busi_monai.inference import Predictor
from busi_monai.settings import Consistency, InferenceSettings
from busi_monai.transforms import (
    MONAILabelResultd,
    prediction_postprocessing,
    prediction_preprocessing,
)

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


@pytest.mark.parametrize(("threshold", "expected"), [(0.4, 256), (0.5, 256), (0.6, 0)])
def test_the_mask_threshold_counts_from_its_value_on(threshold: float, expected: int) -> None:
    settings = InferenceSettings(image_size=(16, 16), mask_threshold=threshold)
    preprocessing = prediction_preprocessing(settings)
    item = {**preprocessing({"image": np.zeros((16, 16))}), "seg": torch.zeros(1, 16, 16)}
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


def test_the_class_is_in_the_result_and_the_mask_lies_as_itk_wants_it() -> None:
    mask = torch.zeros(3, 5, dtype=torch.uint8)
    mask[0, 4] = 1
    item = {
        "image": "left out",
        "pred": mask,
        "pred_cls": torch.tensor([0.2, 0.5, 0.3]),
        "predicted_class": "benign",
        "result": {"kept": 1},
    }
    done = MONAILabelResultd(CLASSES)(item)
    assert done["pred"].shape == (5, 3) and done["pred"][4, 0] == 1
    assert done["pred"].dtype == torch.uint8 and done["pred"].is_contiguous()
    assert "image" not in done and "image" in item
    told = json.loads(json.dumps(done["result"]))
    assert told == {
        "kept": 1,
        "probabilities": pytest.approx({"normal": 0.2, "benign": 0.5, "malignant": 0.3}),
        "predicted_class": "benign",
        "lesion_pixels": 1,
    }


def test_networks_of_one_head() -> None:
    told = MONAILabelResultd(())({"pred": torch.ones(2, 2)})["result"]
    assert told == {"lesion_pixels": 4}
    only_class = {"pred_cls": torch.tensor([1.0, 0.0, 0.0]), "predicted_class": "normal"}
    done = MONAILabelResultd(CLASSES)(only_class)
    assert "pred" not in done and done["result"]["predicted_class"] == "normal"


@pytest.mark.parametrize("bundle", sorted(shipped_bundles()))
def test_every_bundle_has_what_the_stock_app_runs(bundle: str) -> None:
    steps = Bundle.open(bundle).inference()["post_transforms"]["transforms"]
    assert steps[1] == "@postprocessing"
    assert steps[-1]["_target_"] == "busi_monai.transforms.MONAILabelResultd"


def test_a_run_has_it_too_and_it_does_what_the_postprocessing_does(
    tiny_bundle: Path, phantom_busi: Path
) -> None:
    parser = Bundle(tiny_bundle).inference()
    steps = parser.get_parsed_content("post_transforms")
    predictor = Predictor.load(tiny_bundle, "cpu", tta_flip=False)
    path = phantom_busi / "benign" / "benign (1).png"
    item = dict(parser.get_parsed_content("preprocessing")({"image": str(path)}))
    with torch.no_grad():
        heads = predictor.network(item["image"].as_tensor()[None])
    done = steps({**item, "pred": {name: logits[0] for name, logits in heads.items()}})
    expected = predictor.predict(path)
    assert torch.equal(done["pred"].T, torch.from_numpy(expected.mask))
    assert done["result"]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
