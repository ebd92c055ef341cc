"""Two stages in one network: where the box lies, what the classifier sees, what is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from busi_monai.inference.export import export_network
from busi_monai.networks import MultiTaskUNet, TwoStageNetwork
from busi_monai.networks.two_stage import NO_LESION_NORMAL, crop_boxes, lesion_boxes
from busi_monai.settings import InferenceSettings

TINY = {"encoder_options": {"widths": [4, 8]}, "head_channels": []}


class BrightIsLesion(nn.Module):
    """Finds a lesion wherever the image is brighter than a half."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"seg": 40 * (image - 0.5)}


class MeanGrey(nn.Module):
    """Gives the crop's mean as the first logit, and nothing as the others."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        mean = image.mean(dim=[1, 2, 3])
        return {"cls": torch.stack([mean, 0 * mean, 0 * mean], dim=1)}


def two_stage(**options: object) -> TwoStageNetwork:
    settings = {"segmenter_size": (32, 48), "crop_size": (16, 24), "margin": 0.0, **options}
    return TwoStageNetwork(BrightIsLesion(), MeanGrey(), **settings).eval()


def loaded(*boxes: tuple[int, int, int, int, float], size: tuple[int, int] = (64, 96)) -> Tensor:
    """Return a dark image with bright rectangles (left, top, right, bottom, grey)."""
    image = torch.zeros(1, 1, *size)
    for left, top, right, bottom, grey in boxes:
        image[..., top:bottom, left:right] = grey
    return image


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(48, 64), (100, 70), (256, 256)])
def test_the_box_is_that_of_the_largest_component(size: tuple[int, int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    # smooth blobs, a cell and more apart from each other
    noise = scipy.ndimage.gaussian_filter(generator.random(size), 10)
    mask = noise > np.quantile(noise, 0.85)
    side = -(-max(size) // 64)
    cells = np.pad(mask, [(0, -length % side) for length in size])
    cells = cells.reshape(cells.shape[0] // side, side, -1, side).any(axis=(1, 3))
    labels, count = scipy.ndimage.label(cells, structure=np.ones((3, 3)))
    whole = labels.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]] * mask
    largest = whole == 1 + np.argmax([(whole == n + 1).sum() for n in range(count)])
    rows, columns = np.flatnonzero(largest.any(1)), np.flatnonzero(largest.any(0))
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    boxes, found = lesion_boxes(torch.from_numpy(mask)[None, None])
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    assert found.tolist() == [True]
    assert (boxes[0] * scale).round().tolist() == expected


def test_each_image_of_a_batch_has_its_own_box() -> None:
    masks = torch.zeros(3, 1, 20, 40, dtype=torch.bool)
    masks[0, 0, 5:10, 10:30] = True
    masks[2, 0, 19, 39] = True
    boxes, found = lesion_boxes(masks)
    assert found.tolist() == [True, False, True]
    expected = [[0.25, 0.25, 0.75, 0.5], [0, 0, 1, 1], [0.975, 0.95, 1, 1]]
    torch.testing.assert_close(boxes, torch.tensor(expected))


def test_a_crop_of_its_own_size_is_the_image() -> None:
    image = torch.rand(2, 1, 12, 20)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, -1)
    torch.testing.assert_close(crop_boxes(image, whole, (12, 20), oversampling=1), image)


def test_a_crop_averages_what_lies_in_its_box() -> None:
    image = torch.rand(1, 1, 16, 32)
    box = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    expected = nn.functional.avg_pool2d(image[..., 8:, 8:24], 2)
    torch.testing.assert_close(crop_boxes(image, box, (4, 8)), expected)


def test_a_margin_reaches_to_the_border_and_no_further() -> None:
    image = torch.rand(1, 1, 16, 16)
    box = torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    inside = torch.tensor([[0.0, 0.25, 0.75, 1.0]])
    torch.testing.assert_close(
        crop_boxes(image, box, (6, 6), margin=0.5), crop_boxes(image, inside, (6, 6))
    )


def test_the_classifier_sees_the_lesion_at_the_resolution_of_the_input() -> None:
    image = loaded((30, 20, 60, 40, 0.9), (0, 0, 6, 6, 1.0))
    outputs = two_stage()(image)
    assert outputs["seg"].shape == image.shape and outputs["cls"].shape == (1, 3)
    assert ((outputs["seg"] > 0) == (image > 0)).float().mean() > 0.98
    # the smaller bright square, and the dark around, are not in the crop
    assert float(outputs["cls"][0, 0]) == pytest.approx(0.9, abs=0.02)


def test_without_a_lesion_the_whole_image_is_classified() -> None:
    image = loaded((0, 0, 96, 32, 0.4))
    assert float(two_stage()(image)["cls"][0, 0]) == pytest.approx(0.2, abs=0.01)


def test_without_a_lesion_the_class_is_normal_unseen() -> None:
    images = torch.cat([loaded(), loaded((30, 20, 60, 40, 0.9))])
    network = two_stage(when_no_lesion="normal")
    none, found = network(images)["cls"]
    expected = torch.tensor([NO_LESION_NORMAL, 0.01, 0.01])
    torch.testing.assert_close(none.softmax(0), expected)
    torch.testing.assert_close(found, two_stage()(images)["cls"][1])


def test_true_masks_take_the_place_of_the_predicted_ones() -> None:
    images = loaded((30, 20, 60, 40, 0.9)).repeat(3, 1, 1, 1)
    truth = torch.zeros_like(images)
    truth[0, :, 20:40, 60:90] = 1  # beside the bright rectangle
    truth[1] = -1  # unknown: the predicted one
    network = two_stage()
    outputs, plain = network(images, lesion=truth), network(images)
    torch.testing.assert_close(outputs["seg"], plain["seg"])
    beside, unknown, empty = outputs["cls"][:, 0].tolist()
    assert beside == pytest.approx(0.0, abs=0.02)
    assert unknown == pytest.approx(0.9, abs=0.02)
    assert empty == pytest.approx(float(images[0].mean()), abs=0.01)


def test_each_stage_gets_z_scores_of_its_own() -> None:
    class Moments(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            low, high = image.mean(dim=[1, 2, 3]), image.std(dim=[1, 2, 3], correction=0)
            return {"cls": torch.stack([low, high], dim=1)}

    network = TwoStageNetwork(
        BrightIsLesion(), Moments(), (32, 48), (16, 24), classes=["benign", "malignant"],
        classifier_normalisation="zscore",
    )  # fmt: skip
    moments = network(torch.rand(2, 1, 64, 96))["cls"]
    torch.testing.assert_close(moments, torch.tensor([[0.0, 1.0]] * 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin must be at least 0, got -0.1"),
        ({"when_no_lesion": "guess"}, "when_no_lesion must be one of whole, normal, got 'guess'"),
        ({"mask_threshold": 1.0}, "mask_threshold must lie between 0 and 1"),
        ({"segmenter_normalisation": "minmax"}, "segmenter_normalisation must be one of unit"),
        ({"when_no_lesion": "normal", "classes": ["benign", "malignant"]}, "needs the class norm"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_stage(**options)


def tiny(**options: object) -> TwoStageNetwork:
    torch.manual_seed(0)
    return TwoStageNetwork(
        MultiTaskUNet("unet", classes=0, **TINY),
        MultiTaskUNet("unet", segmentation=False, **TINY),
        segmenter_size=(32, 32),
        crop_size=(24, 16),
        **options,
    ).eval()


def test_a_size_that_a_stage_cannot_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"crop_size must be .* divisible by 2, got \(15, 16\)"):
        classifier = MultiTaskUNet(segmentation=False, **TINY)
        TwoStageNetwork(BrightIsLesion(), classifier, (8, 8), (15, 16))


def test_the_classifiers_classes_must_be_those_named() -> None:
    with pytest.raises(ValueError, match="the classifier has 3 classes, expected benign, mal"):
        tiny(classes=["benign", "malignant"])


def test_each_head_trains_its_own_stage() -> None:
    network = tiny().train()
    network(torch.rand(2, 1, 64, 64))["cls"].sum().backward()
    assert all(p.grad is None for p in network.segmenter.parameters())
    assert all(p.grad is not None for p in network.classifier.parameters())


@pytest.mark.parametrize("when", ["whole", "normal"])
@pytest.mark.parametrize(
    "format",
    [
        "torchscript",
        pytest.param("pt2", marks=pytest.mark.slow),
        pytest.param("onnx", marks=pytest.mark.slow),
    ],
)
def test_exports_agree(format: str, when: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")
    network = tiny(when_no_lesion=when)
    settings = InferenceSettings(image_size=(48, 64))
    path = tmp_path / f"n.{format}"
    report = export_network(network, path, format, settings=settings)
    assert report.max_difference < 1e-4
