"""Encoders of timm and segmentation-models-pytorch, and published files for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from busi_monai.errors import InputError
from busi_monai.networks import MultiTaskUNet, build_encoder, load_encoder_weights
from busi_monai.networks.library_encoders import import_library


def library(name: str) -> Any:
    try:
        return import_library(name)
    except InputError as error:
        pytest.skip(str(error))


def grey_and_repeated(side: int = 64) -> tuple[Tensor, Tensor]:
    grey = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    return grey, grey.repeat(1, 3, 1, 1)


def random_statistics(network: Any) -> Any:
    """Weights and statistics that differ from layer to layer, as after a training."""
    torch.manual_seed(5)
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(4, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize(
    ("encoder", "package"), [("smp", "segmentation_models_pytorch"), ("timm", "timm")]
)
def test_without_the_package_the_extra_is_named(
    encoder: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'busi-monai\[encoders\]'"):
        build_encoder(encoder)


def test_a_torchvision_of_another_torch_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(InputError, match=r"nms does not exist.*Expected a torchvision built for"):
        build_encoder("timm")


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("timm", {"pretrained": True}),
        ("smp", {"weights": "imagenet"}),
        ("timm", {"name": "hf-hub:someone/network"}),
        ("smp", {"name": "tu-hf_hub:someone/network"}),
        ("timm", {"name": "local-dir:/somewhere"}),
    ],
)
def test_nothing_is_ever_downloaded(encoder: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"never.*encoder_weights"):
        build_encoder(encoder, **options)


@pytest.mark.parametrize(
    ("encoder", "package", "name", "near"),
    [
        ("smp", "segmentation_models_pytorch", "resnet43", "resnet34"),
        ("timm", "timm", "convnext_tinny", "convnext_tiny"),
    ],
)
def test_an_unknown_name_lists_near_ones(encoder: str, package: str, name: str, near: str) -> None:
    library(package)
    with pytest.raises(InputError, match=rf"got '{name}'; near to it: .*{near}"):
        build_encoder(encoder, name=name)


def test_a_network_of_timm_in_smp_is_sent_there() -> None:
    library("segmentation_models_pytorch")
    with pytest.raises(InputError, match="take encoder timm with the name resnet18"):
        build_encoder("smp", name="tu-resnet18")


def test_maps_of_one_size_are_refused() -> None:
    library("timm")
    with pytest.raises(InputError, match=r"found strides \[16, 16, 16\]: take a hierarchical"):
        build_encoder("timm", name="vit_tiny_patch16_224", img_size=64)


@pytest.mark.parametrize(
    ("encoder", "package", "options", "strides"),
    [
        ("smp", "segmentation_models_pytorch", {"name": "mit_b0"}, [4, 8, 16, 32]),
        ("smp", "segmentation_models_pytorch", {"name": "resnet18", "depth": 4}, [2, 4, 8, 16]),
        ("timm", "timm", {"name": "resnet18", "out_indices": (1, 2, 3)}, [4, 8, 16]),
        # channels last
        ("timm", "timm", {"name": "swin_tiny_patch4_window7_224", "img_size": 64}, [4, 8, 16, 32]),
    ],
)
def test_other_families(
    encoder: str, package: str, options: dict[str, Any], strides: list[int]
) -> None:
    library(package)
    network = MultiTaskUNet(encoder, encoder_options=options).eval()
    assert network.encoder.strides == strides
    grey, _ = grey_and_repeated()
    with torch.no_grad():
        maps = network.encoder(grey)
        outputs = network(grey)
    assert [m.shape[1] for m in maps] == network.encoder.channels
    assert [64 // m.shape[2] for m in maps] == strides
    assert outputs["seg"].shape == (2, 1, 64, 64)


def test_smp_takes_torchvisions_file(tmp_path: Path) -> None:
    library("segmentation_models_pytorch")
    torchvision = library("torchvision")
    origin = random_statistics(torchvision.models.resnet18(weights=None))
    torch.save(origin.state_dict(), tmp_path / "resnet18.pth")
    ours = MultiTaskUNet("resnet18", segmentation=False).eval()
    smps = MultiTaskUNet("smp", segmentation=False, encoder_options={"name": "resnet18"}).eval()
    grey, _ = grey_and_repeated()
    for network in (ours, smps):
        load_encoder_weights(network, tmp_path / "resnet18.pth")
    with torch.no_grad():
        for one, other in zip(ours.encoder(grey), smps.encoder(grey), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0", "mit_b0"])
def test_smp_takes_the_encoder_of_a_whole_network(name: str, tmp_path: Path) -> None:
    smp = library("segmentation_models_pytorch")
    origin = random_statistics(smp.Unet(name, encoder_weights=None, in_channels=3))
    torch.save(origin.state_dict(), tmp_path / "unet.pth")
    found = MultiTaskUNet("smp", segmentation=False, encoder_options={"name": name}).eval()
    load_encoder_weights(found, tmp_path / "unet.pth")
    grey, repeated = grey_and_repeated()
    with torch.no_grad():
        expected = [each for each in origin.encoder(repeated)[1:] if each.shape[1]]
        for one, other in zip(found.encoder(grey), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_our_efficientnet_takes_the_file_of_efficientnet_pytorch(tmp_path: Path) -> None:
    """smp's EfficientNet has that package's layers and names."""
    smp = library("segmentation_models_pytorch")
    origin = random_statistics(
        smp.encoders.get_encoder("efficientnet-b0", in_channels=3, weights=None)
    )
    torch.save({**origin.state_dict(), "_fc.bias": torch.zeros(9)}, tmp_path / "b0.pth")
    found = MultiTaskUNet("efficientnet-b0", segmentation=False).eval()
    load_encoder_weights(found, tmp_path / "b0.pth")
    grey, repeated = grey_and_repeated()
    with torch.no_grad():
        ours, theirs = found.encoder(grey), origin(repeated)[1:]
    # smp takes the maps of stride 2 and 16 before the last block of that size
    for level in (1, 2, 4):
        torch.testing.assert_close(ours[level], theirs[level], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnext_atto", {}),
        ("resnet18", {}),
        ("tf_efficientnet_b0", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": 64}),
    ],
)
def test_timm_takes_the_file_of_a_classifier(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    timm = library("timm")
    from safetensors.torch import save_file

    origin = random_statistics(timm.create_model(name, pretrained=False, **options))
    save_file(origin.state_dict(), tmp_path / "model.safetensors")
    found = MultiTaskUNet("timm", segmentation=False, encoder_options={"name": name, **options})
    load_encoder_weights(found.eval(), tmp_path / "model.safetensors")
    grey, repeated = grey_and_repeated()
    with torch.no_grad():
        expected = origin.forward_intermediates(repeated, intermediates_only=True)
        for one, other in zip(found.encoder(grey), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_timms_file_of_another_network_is_refused(tmp_path: Path) -> None:
    timm = library("timm")
    origin = timm.create_model("convnext_femto", pretrained=False)
    torch.save(origin.state_dict(), tmp_path / "model.pth")
    found = MultiTaskUNet("timm", encoder_options={"name": "convnext_atto"})
    with pytest.raises(InputError, match=r"has shape.*names of timm's network"):
        load_encoder_weights(found, tmp_path / "model.pth")
