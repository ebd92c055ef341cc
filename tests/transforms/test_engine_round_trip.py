"""Batches of native masks through MONAI's own engine, one door that takes batches apart itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, FlattenSubKeysd

from busi_monai.settings import InferenceSettings
from busi_monai.transforms import (
    collate_items,
    prediction_postprocessing,
    prediction_preprocessing,
)

Draw = Callable[..., np.ndarray]


class BrightIsLesion(torch.nn.Module):
    """A network whose mask is what is brighter than half."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"seg": (image - 0.5) * 20, "cls": image.mean(dim=(1, 2, 3))[:, None].repeat(1, 3)}


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
def test_an_evaluator_gives_native_masks_beside_native_truth(ellipse: Draw, aspect: str) -> None:
    settings = InferenceSettings(image_size=(96, 128), aspect=aspect)
    prepare = prediction_preprocessing(settings, with_label=True)
    lesions = [
        ellipse((100, 160), (30, 110), (20, 35)),
        ellipse((140, 90), (100, 30), (25, 15)),
        ellipse((80, 81), (40, 60), (15, 10)),
    ]
    items = [
        {"image": lesion.astype(np.float32), "label": lesion, "id": str(k), "class_label": k}
        for k, lesion in enumerate(lesions)
    ]
    items[1]["label"] = None
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(
            Dataset(items, prepare), batch_size=2, collate_fn=collate_items, num_workers=0
        ),
        network=BrightIsLesion(),
        postprocessing=Compose(
            [FlattenSubKeysd("pred"), prediction_postprocessing(settings, prepare)]
        ),
    )
    seen = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.extend(zip(engine.state.batch, engine.state.output, strict=True)),
    )
    evaluator.run()

    assert [item["id"] for item, _ in seen] == ["0", "1", "2"]
    for (item, output), lesion in zip(seen, lesions, strict=True):
        assert output["pred"].shape == lesion.shape
        overlap = np.logical_and(output["pred"].numpy(), lesion).sum()
        assert 2 * overlap / (output["pred"].numpy().sum() + lesion.sum()) >= 0.97
        if item["id"] == "1":
            assert item["native_label"] is None
        else:
            assert np.array_equal(item["native_label"][0].numpy(), lesion)
