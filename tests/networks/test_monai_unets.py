from __future__ import annotations

import pytest
import torch
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.unet import UNet
from torch import nn

from busi_monai.networks import MultiTaskUNet, build_encoder


def same_weights(ours: list[nn.Module], theirs: list[nn.Module]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        other.load_state_dict(one.state_dict())


def test_basicunet_gives_monais_mask() -> None:
    features = (4, 4, 8, 8, 16, 6)
    ours = MultiTaskUNet("basicunet", encoder_options={"features": features}).eval()
    monai = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=features).eval()
    same_weights(
        [ours.encoder.conv_0, *ours.encoder.downs, *ours.decoder.ups, ours.seg_head],
        [
            *(monai.conv_0, monai.down_1, monai.down_2, monai.down_3, monai.down_4),
            *(monai.upcat_4, monai.upcat_3, monai.upcat_2, monai.upcat_1, monai.final_conv),
        ],
    )
    image = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)["seg"], monai(image))


def test_basicunet_of_classic_widths_has_the_published_size() -> None:
    network = MultiTaskUNet(
        "basicunet", classes=0, encoder_options={"features": (64, 128, 256, 512, 1024, 64)}
    )
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(
        31.11e6, abs=0.01e6
    )


@pytest.mark.parametrize("residual", [0, 2])
def test_unet_gives_monais_mask(residual: int) -> None:
    torch.manual_seed(0)
    monai = UNet(2, 1, 1, channels=(4, 8, 16), strides=(2, 2), num_res_units=residual).eval()
    ours = MultiTaskUNet(
        "monai_unet",
        encoder_options={
            "widths": [4, 8, 16],
            "level_strides": [2, 2],
            "num_res_units": residual,
        },
    ).eval()
    top, skip, last = monai.model
    middle, inner, lower = skip.submodule
    same_weights(
        [*ours.encoder.downs, *ours.decoder.ups], [top, middle, inner.submodule, lower, last]
    )
    image = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)["seg"], monai(image))


@pytest.mark.parametrize("encoder", ["basicunet", "monai_unet"])
def test_their_decoder_takes_no_options(encoder: str) -> None:
    with pytest.raises(ValueError, match=f"encoder '{encoder}' brings its own decoder.*attention"):
        MultiTaskUNet(encoder, attention=True)


def test_basicunet_needs_six_widths() -> None:
    with pytest.raises(ValueError, match=r"six entries, got \[4, 8\]"):
        build_encoder("basicunet", features=[4, 8])


def test_unet_needs_a_stride_between_levels() -> None:
    with pytest.raises(ValueError, match=r"one entry less than widths \[4, 8\], got \[2, 2\]"):
        build_encoder("monai_unet", widths=[4, 8], level_strides=[2, 2])
