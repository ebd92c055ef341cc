from __future__ import annotations

import numpy as np
import pytest
import torch

from busi_monai.errors import InputError
from busi_monai.inference import Predictor, class_heat_map
from busi_monai.networks import EnsembleNetwork, MultiTaskUNet

SIZE = (64, 96)


def network(seed: int = 0, **options: object) -> MultiTaskUNet:
    torch.manual_seed(seed)
    settings = {"encoder_options": {"widths": [4, 8, 16]}, "head_channels": [], **options}
    return MultiTaskUNet("unet", **settings).eval()


def grad_cam(model: MultiTaskUNet, image: torch.Tensor, index: int) -> np.ndarray:
    """Grad-CAM from its definition, by autograd alone."""
    features = model.encoder(image)[-1].detach().requires_grad_()
    logit = model.cls_head(features, None)[0, index]
    (gradient,) = torch.autograd.grad(logit, features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    places = torch.relu((weights * features).sum(dim=1, keepdim=True))
    enlarged = torch.nn.functional.interpolate(
        places, size=SIZE, mode="bilinear", align_corners=False
    )[0, 0]
    return (enlarged / enlarged.max().clamp(min=1e-30)).detach().numpy()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_it_is_what_the_paper_defines(index: int) -> None:
    model, image = network(), torch.rand(1, 1, *SIZE)

    found = class_heat_map(model, image, index).numpy()

    assert found.shape == SIZE
    assert found.min() >= 0
    assert np.allclose(found, grad_cam(model, image, index), atol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    model, image = network(), torch.rand(1, 1, *SIZE)
    with torch.no_grad():
        before = model(image)["cls"]

        class_heat_map(model, image, 1)

        assert torch.equal(model(image)["cls"], before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    torch.jit.script(model)


def test_an_ensembles_map_is_its_members_mean() -> None:
    members, image = [network(1), network(2)], torch.rand(1, 1, *SIZE)
    apart = torch.stack([class_heat_map(member, image, 2) for member in members]).mean(dim=0)

    together = class_heat_map(EnsembleNetwork(members), image, 2)

    assert torch.allclose(together, apart / apart.max(), atol=1e-6)


def test_networks_without_a_class_head_are_refused() -> None:
    with pytest.raises(InputError, match="MultiTaskUNet has none"):
        class_heat_map(network(classes=0), torch.rand(1, 1, *SIZE), 0)


def test_a_map_comes_at_the_images_own_size(predictor: Predictor) -> None:
    pixels = np.random.default_rng(0).random((70, 110)).astype(np.float32)

    found = predictor.heat_map(pixels, "malignant")

    assert found.shape == (70, 110)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    with pytest.raises(InputError, match="unknown class 'cyst'; expected one of normal, benign"):
        predictor.heat_map(pixels, "cyst")
