from __future__ import annotations

import pytest
import torch
from torch import nn

from busi_monai.networks import EnsembleNetwork, MultiTaskUNet, TwoStageNetwork


def small(encoder: str = "unet", seed: int = 0, **options: object) -> MultiTaskUNet:
    torch.manual_seed(seed)
    return MultiTaskUNet(encoder, encoder_options={"widths": [4, 8]}, head_channels=[], **options)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 1, 16, 24, generator=torch.Generator().manual_seed(1))


def test_logits_are_the_members_mean(image: torch.Tensor) -> None:
    members = [small(seed=seed).eval() for seed in range(3)]
    outputs = EnsembleNetwork(members).eval()(image)
    for head in ("seg", "cls"):
        expected = torch.stack([member(image)[head] for member in members]).mean(dim=0)
        torch.testing.assert_close(outputs[head], expected)


def test_classes_are_the_geometric_mean_of_calibrated_probabilities(image: torch.Tensor) -> None:
    members, temperatures = [small(seed=seed).eval() for seed in range(2)], [0.5, 2.0]
    found = EnsembleNetwork(members, temperatures).eval()(image)["cls"].softmax(dim=1)
    first, second = (
        (member(image)["cls"] / t).softmax(dim=1)
        for member, t in zip(members, temperatures, strict=True)
    )
    product = (first * second).sqrt()
    torch.testing.assert_close(found, product / product.sum(dim=1, keepdim=True))


def test_deep_supervision_of_members_stays_inside(image: torch.Tensor) -> None:
    ensemble = EnsembleNetwork([small(deep_supervision=True), small(deep_supervision=True)])
    assert set(ensemble.train()(image)) == {"seg", "cls"}


def test_the_stride_suits_all_members() -> None:
    deep = MultiTaskUNet("unet", encoder_options={"widths": [4, 4, 4, 4]}, head_channels=[])
    assert EnsembleNetwork([small(), deep]).stride == deep.stride == 8


@pytest.mark.parametrize(
    ("members", "temperatures", "told"),
    [
        ([], None, "at least one member"),
        ([3, 2], None, "different numbers of classes"),
        ([3, 3], [1.0], "one number above 0 for each of 2"),
        ([3], [0.0], "one number above 0"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    members: list[int], temperatures: list[float] | None, told: str
) -> None:
    networks: list[nn.Module] = [small(classes=count) for count in members]
    with pytest.raises(ValueError, match=told):
        EnsembleNetwork(networks, temperatures)


def test_members_of_different_encoders_can_be_scripted(image: torch.Tensor) -> None:
    other = MultiTaskUNet("resnet18", encoder_options={"widths": [4, 8, 8, 16]}, head_channels=[])
    ensemble = EnsembleNetwork([small(), other]).eval()
    loaded = torch.rand(2, 1, 32, 64)
    with torch.no_grad():
        expected, scripted = ensemble(loaded), torch.jit.script(ensemble)(loaded)
    for head, logits in expected.items():
        torch.testing.assert_close(scripted[head], logits)


def two_stage(seed: int) -> TwoStageNetwork:
    return TwoStageNetwork(
        small(seed=seed),
        small(seed=seed, segmentation=False),
        segmenter_size=(16, 24),
        crop_size=(8, 8),
    ).eval()


def test_true_masks_reach_the_members_that_take_them(image: torch.Tensor) -> None:
    lesion = torch.zeros_like(image)
    lesion[..., 4:9, 10:16] = 1
    staged, single = [two_stage(seed).eval() for seed in range(2)], small(seed=5).eval()
    inner = EnsembleNetwork(staged).eval()
    found = EnsembleNetwork([inner, single]).eval()(image, lesion)["cls"]
    true = torch.stack([member(image, lesion)["cls"] for member in staged]).mean(dim=0)
    torch.testing.assert_close(found, (true + single(image)["cls"]) / 2)
    assert not torch.allclose(true, inner(image)["cls"])


def test_an_ensemble_of_two_stages_can_be_scripted(image: torch.Tensor) -> None:
    ensemble = EnsembleNetwork([two_stage(0), two_stage(1)]).eval()
    with torch.no_grad():
        expected, scripted = ensemble(image), torch.jit.script(ensemble)(image)
    for head, logits in expected.items():
        torch.testing.assert_close(scripted[head], logits)
