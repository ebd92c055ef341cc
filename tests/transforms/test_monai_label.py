from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import shipped_bundles
from busi_monai.transforms import MONAILabelResultd

CLASSES = ("normal", "benign", "malignant")


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
    from busi_monai.inference import Predictor

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
