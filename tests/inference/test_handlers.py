from __future__ import annotations

import gc
import json

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from busi_monai.inference import PredictionsSaver
from busi_monai.settings import InferenceSettings


def item(path, number: int, **more: object) -> tuple[dict, dict]:
    """Batch and output of one image, as a ``SupervisedEvaluator`` leaves them."""
    image = MetaTensor(torch.zeros(1, 32, 48), meta={"filename_or_obj": str(path)})
    mask = torch.zeros(70, 110, dtype=torch.uint8)
    mask[:10, : 10 * number] = 1
    given = {"id": f"case {number}", **more}
    output = {
        "image": image,
        "pred": mask,
        "pred_seg": mask[None].float(),
        "pred_cls": torch.tensor([0.2, 0.5, 0.3]),
        "predicted_class": "benign",
    }
    return given, output


def run(saver: PredictionsSaver, batches: list[list[tuple[dict, dict]]]) -> None:
    def step(engine: Engine, batch: list[tuple[dict, dict]]) -> list[dict]:
        if batch is None:
            raise KeyboardInterrupt
        engine.state.batch = [given for given, _ in batch]
        return [output for _, output in batch]

    engine = Engine(step)
    saver.attach(engine)
    engine.run(batches)


def test_rows_masks_and_truth_are_written(image, tmp_path):
    truth = torch.zeros(1, 70, 110, dtype=torch.uint8)
    truth[0, :10, :10] = 1
    unknown = torch.full((1, 80, 120), -1, dtype=torch.int16)
    saver = PredictionsSaver(
        tmp_path / "out",
        InferenceSettings(),
        with_truth=True,
        failures=[("far/bad.png", "bad.png: empty")],
        details={"part": "test"},
    )
    run(
        saver,
        [
            [item(image, 1, class_label=torch.tensor(1), native_label=truth, group="g1")],
            [item(image, 2, class_label=-1, native_label=unknown), item(image, 3)],
        ],
    )
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    assert table["id"].tolist() == ["case 1", "case 2", "case 3", "bad"]
    assert table["true_class"].tolist() == ["benign", "", "", ""]
    assert table["dice"].tolist() == ["1.000000", "", "", ""]
    assert table["group"].tolist() == ["g1", "", "", ""]
    assert table["error"].tolist() == ["", "", "", "bad.png: empty"]
    assert np.asarray(table["lesion_pixels"][:3], dtype=int).tolist() == [100, 200, 300]
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["part"] == "test" and record["counts"]["failed"] == 1


def test_a_subset_of_classes_is_named_by_its_own_labels(image, tmp_path):
    classes = ("benign", "malignant")
    saver = PredictionsSaver(
        tmp_path / "out", InferenceSettings(classes=classes), with_truth=True, label_classes=classes
    )
    given, output = item(image, 1, class_label=1)
    run(saver, [[(given, {**output, "pred_cls": torch.tensor([0.4, 0.6])})]])
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["true_class"].tolist() == ["malignant"] and table["p_malignant"].tolist() == [0.6]


def test_without_a_mask_head_the_mask_is_empty_at_native_size(image, tmp_path):
    given, output = item(image, 1)
    output["image"].meta["spatial_shape"] = np.array([70, 110])
    only_class = {name: output[name] for name in ("image", "pred_cls", "predicted_class")}
    run(PredictionsSaver(tmp_path / "out", InferenceSettings()), [[(given, only_class)]])
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["lesion_pixels"].tolist() == [0]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, TypeError])
def test_a_run_that_stops_leaves_nothing_half_written(image, tmp_path, stop):
    saver = PredictionsSaver(tmp_path / "out", InferenceSettings())
    second = None if stop is KeyboardInterrupt else [({}, None)]
    with pytest.raises(stop):
        run(saver, [[item(image, 1)], second])
    del saver
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_of_one_saver_starts_anew(image, tmp_path):
    saver = PredictionsSaver(tmp_path / "out", InferenceSettings(), overwrite=True)
    for _ in range(2):
        run(saver, [[item(image, 1)]])
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
