from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch
from torch import nn

from busi_monai.inference import FlipAveragingInferer, PlainInferer, prediction_inferer
from busi_monai.networks import MultiTaskUNet
from busi_monai.settings import InferenceSettings


def network() -> nn.Module:
    torch.manual_seed(0)
    return MultiTaskUNet("unet", encoder_options={"widths": [4, 8]}, head_channels=[]).eval()


def test_a_mirrored_image_gets_the_mirrored_mask_and_the_same_class():
    image = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(3))
    model, averaging = network(), FlipAveragingInferer()
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


def test_a_bare_tensor_is_averaged_too():
    assert FlipAveragingInferer()(torch.rand(1, 1, 4, 4), lambda x: x).shape == (1, 1, 4, 4)


def test_the_operating_point_chooses():
    assert type(prediction_inferer(InferenceSettings())) is PlainInferer
    assert type(prediction_inferer(InferenceSettings(tta_flip=True))) is FlipAveragingInferer


def test_masks_given_to_the_network_are_mirrored_with_the_image() -> None:
    image, lesion = torch.rand(2, 1, 4, 6), torch.rand(2, 1, 4, 6)

    def network(loaded: torch.Tensor, lesion: torch.Tensor, scale: float) -> torch.Tensor:
        return (loaded * lesion * scale)[..., :3].sum(dim=(1, 2, 3))[:, None]

    both = FlipAveragingInferer()(image, network, lesion=lesion, scale=2.0)
    torch.testing.assert_close(both[:, 0], (image * lesion).sum(dim=(1, 2, 3)))
