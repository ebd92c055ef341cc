from __future__ import annotations

import pytest
import torch
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
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


def test_basicunetplusplus_gives_monais_masks_at_every_depth() -> None:
    features = (4, 4, 8, 8, 16, 6)
    torch.manual_seed(0)
    monai = BasicUNetPlusPlus(2, 1, 1, features=features, deep_supervision=True).eval()
    ours = MultiTaskUNet(
        "basicunetplusplus", encoder_options={"features": features}, deep_supervision=True
    )
    nodes = [
        getattr(monai, f"upcat_{level}_{column}")
        for column in (1, 2, 3, 4)
        for level in range(5 - column)
    ]
    assert len(nodes) == 10
    same_weights(
        [
            *ours.encoder.levels,
            *(node for column in ours.decoder.columns for node in column.nodes),
            # the first auxiliary head is the finest's neighbour
            *(ours.seg_head, *ours.aux_heads),
        ],
        [
            *(getattr(monai, f"conv_{level}_0") for level in range(5)),
            *nodes,
            *(monai.final_conv_0_4, monai.final_conv_0_3, monai.final_conv_0_2),
            monai.final_conv_0_1,
        ],
    )
    image = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        found, expected = ours(image), monai(image)
    for head, mask in zip(("seg_aux3", "seg_aux2", "seg_aux1", "seg"), expected, strict=True):
        torch.testing.assert_close(found[head], mask)


@pytest.mark.parametrize("upsample_mode", ["nontrainable", "deconv"])
def test_segresnet_gives_monais_mask(upsample_mode: str) -> None:
    torch.manual_seed(0)
    options = {"init_filters": 8, "blocks_down": (1, 2, 2), "upsample_mode": upsample_mode}
    monai = SegResNet(2, out_channels=1, blocks_up=(1, 2), **options).eval()
    ours = MultiTaskUNet(
        "segresnet", encoder_options={**options, "blocks_up": [1, 2], "dropout_prob": 0.2}
    ).eval()
    norm, _, last = monai.conv_final
    final_norm = ours.decoder.blocks[-1][1]
    same_weights(
        [
            *(ours.encoder.first, ours.encoder.downs, ours.decoder.enlargements),
            *(ours.decoder.blocks[0], ours.decoder.blocks[1][0], final_norm, ours.seg_head),
        ],
        [
            *(monai.convInit, monai.down_layers, monai.up_samples),
            *(monai.up_layers[0], monai.up_layers[1], norm, last.conv),
        ],
    )
    image = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)["seg"], monai(image))


@pytest.mark.parametrize("residual", [False, True])
def test_dynunet_gives_monais_mask(residual: bool) -> None:
    torch.manual_seed(0)
    filters, strides, kernels = (4, 6, 8, 10), (1, 2, 2, 2), (3, 3, 3, 5)
    monai = DynUNet(
        2, 1, 1, kernels, strides, strides[1:], filters=filters, res_block=residual
    ).eval()
    ours = MultiTaskUNet(
        "dynunet",
        encoder_options={
            "filters": filters,
            "level_strides": strides,
            "kernel_size": kernels,
            "res_block": residual,
        },
    ).eval()
    same_weights(
        [*ours.encoder.downs, *ours.decoder.ups, ours.seg_head],
        [
            *(monai.input_block, *monai.downsamples, monai.bottleneck),
            *(*monai.upsamples, monai.output_block.conv.conv),
        ],
    )
    image = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)["seg"], monai(image))


def test_dynunet_that_starts_smaller_gives_the_mask_in_full_size() -> None:
    network = MultiTaskUNet(
        "dynunet", encoder_options={"filters": [4, 8, 8], "level_strides": [2, 2, 2]}
    )
    assert network.stride == 8
    assert network(torch.rand(2, 1, 32, 48))["seg"].shape == (2, 1, 32, 48)


def test_dynunet_with_residual_blocks_scripts_and_exports() -> None:
    options = {"filters": [4, 8, 8], "level_strides": [1, 2, 2], "res_block": True}
    network = MultiTaskUNet("dynunet", encoder_options=options).eval()
    image = torch.rand(2, 1, 16, 24)
    program = torch.export.export(network, (image,)).module()
    with torch.no_grad():
        for found in (torch.jit.script(network)(image), program(image)):
            torch.testing.assert_close(found["seg"], network(image)["seg"])


@pytest.mark.parametrize(
    "encoder", ["basicunet", "monai_unet", "basicunetplusplus", "segresnet", "dynunet"]
)
def test_their_decoder_takes_no_options(encoder: str) -> None:
    with pytest.raises(ValueError, match=f"encoder '{encoder}' brings its own decoder.*attention"):
        MultiTaskUNet(encoder, attention=True)


@pytest.mark.parametrize("encoder", ["basicunet", "basicunetplusplus"])
def test_basicunet_needs_six_widths(encoder: str) -> None:
    with pytest.raises(ValueError, match=r"six entries, got \[4, 8\]"):
        build_encoder(encoder, features=[4, 8])


def test_segresnet_needs_a_decoder_level_for_each_but_the_first() -> None:
    with pytest.raises(ValueError, match=r"one entry less than blocks_down \[1, 2\], got \[1, 1\]"):
        build_encoder("segresnet", blocks_down=[1, 2], blocks_up=[1, 1])


@pytest.mark.parametrize(
    "options",
    [{"filters": [4, 8]}, {"level_strides": [1, 2]}, {"kernel_size": [3, 3]}],
    ids=str,
)
def test_dynunet_needs_the_same_levels(options: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="same three or more levels"):
        build_encoder("dynunet", **options)


@pytest.mark.parametrize("encoder", ["basicunetplusplus", "dynunet"])
def test_deep_supervision_is_the_networks_option(encoder: str) -> None:
    with pytest.raises(TypeError, match=f"encoder '{encoder}'.*'deep_supervision'"):
        build_encoder(encoder, deep_supervision=True)


def test_unet_needs_a_stride_between_levels() -> None:
    with pytest.raises(ValueError, match=r"one entry less than widths \[4, 8\], got \[2, 2\]"):
        build_encoder("monai_unet", widths=[4, 8], level_strides=[2, 2])
