from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch

from busi_monai.errors import InputError
from busi_monai.inference import (
    FlipAveragingInferer,
    PlainInferer,
    Predictor,
    class_heat_map,
    prediction_inferer,
)
from busi_monai.networks import EnsembleNetwork, MultiTaskUNet
from busi_monai.settings import InferenceSettings


def test_a_mirrored_image_gets_the_mirrored_mask_and_the_same_class():
    image = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(3))
    model, averaging = unet(), FlipAveragingInferer()
    with torch.no_grad():
        straight = averaging(image, model)
        mirrored = averaging(image.flip(-1), model)
        plain = model(image)
    torch.testing.assert_close(mirrored["seg"].flip(-1), straight["seg"])
    torch.testing.assert_close(mirrored["cls"], straight["cls"])
    assert not torch.allclose(plain["seg"], straight["seg"])


def test_predictions_beside_each_other_compute_in_full_precision() -> None:
    """cuDNN's flags are the process's: a server's threads share them."""
    first_inside, second_inside, first_left = Event(), Event(), Event()

    def exact() -> bool:
        return torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32

    def first(image: torch.Tensor) -> bool:
        first_inside.set()
        return second_inside.wait(10) and exact()

    def second(image: torch.Tensor) -> bool:
        second_inside.set()
        return first_left.wait(10) and exact()

    with ThreadPoolExecutor() as threads, torch.backends.cudnn.flags(allow_tf32=True):
        one = threads.submit(PlainInferer(), torch.zeros(1), first)
        assert first_inside.wait(10)
        other = threads.submit(PlainInferer(), torch.zeros(1), second)
        assert one.result()
        first_left.set()
        assert other.result()
        assert not exact()


def test_logits_are_averaged():
    outputs = FlipAveragingInferer()(
        torch.tensor([[[[1.0, 3.0]]]]), lambda image: {"seg": image * 2, "cls": image[..., 0, 0]}
    )
    assert outputs["seg"].tolist() == [[[[2.0, 6.0]]]]
    assert outputs["cls"].tolist() == [[2.0]]


def test_the_operating_point_chooses():
    assert type(prediction_inferer(InferenceSettings())) is PlainInferer
    assert type(prediction_inferer(InferenceSettings(tta_flip=True))) is FlipAveragingInferer


def test_masks_given_to_the_network_are_mirrored_with_the_image() -> None:
    image, lesion = torch.rand(2, 1, 4, 6), torch.rand(2, 1, 4, 6)

    def network(loaded: torch.Tensor, lesion: torch.Tensor, scale: float) -> dict:
        return {"cls": (loaded * lesion * scale)[..., :3].sum(dim=(1, 2, 3))[:, None]}

    both = FlipAveragingInferer()(image, network, lesion=lesion, scale=2.0)["cls"]
    torch.testing.assert_close(both[:, 0], (image * lesion).sum(dim=(1, 2, 3)))


SIZE = (64, 96)


def unet(seed: int = 0, **options: object) -> MultiTaskUNet:
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
    model, image = unet(), torch.rand(1, 1, *SIZE)

    found = class_heat_map(model, image, index).numpy()

    assert found.shape == SIZE
    assert found.min() >= 0
    assert np.allclose(found, grad_cam(model, image, index), atol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    model, image = unet(), torch.rand(1, 1, *SIZE)
    with torch.no_grad():
        before = model(image)["cls"]

        class_heat_map(model, image, 1)

        assert torch.equal(model(image)["cls"], before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    torch.jit.script(model)


def test_an_ensembles_map_is_its_members_mean() -> None:
    members, image = [unet(1), unet(2)], torch.rand(1, 1, *SIZE)
    apart = torch.stack([class_heat_map(member, image, 2) for member in members]).mean(dim=0)

    together = class_heat_map(EnsembleNetwork(members), image, 2)

    assert torch.allclose(together, apart / apart.max(), atol=1e-6)


def test_networks_without_a_class_head_are_refused() -> None:
    with pytest.raises(InputError, match="MultiTaskUNet has none"):
        class_heat_map(unet(classes=0), torch.rand(1, 1, *SIZE), 0)


def test_a_map_comes_at_the_images_own_size(predictor: Predictor) -> None:
    pixels = np.random.default_rng(0).random((70, 110)).astype(np.float32)

    found = predictor.heat_map(pixels, "malignant")

    assert found.shape == (70, 110)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    with pytest.raises(InputError, match="unknown class 'cyst'; expected one of normal, benign"):
        predictor.heat_map(pixels, "cyst")
