from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from busi_monai.errors import InputError
from busi_monai.networks import MultiTaskUNet, load_encoder_weights
from busi_monai.networks.pretrained import load_initial_weights

SMALL = {"widths": [4, 8, 8, 16]}


def network(encoder: str = "resnet18", seed: int = 1, **options: Any) -> MultiTaskUNet:
    torch.manual_seed(seed)
    options = {**SMALL, **options} if encoder.startswith("resnet") else options
    built = MultiTaskUNet(encoder, encoder_options=options, segmentation=False)
    built(torch.rand(4, 1, 32, 32))
    return built.eval()


def saved(state: object, folder: Path, name: str = "weights.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def maps(of: MultiTaskUNet) -> list[Tensor]:
    loaded = torch.rand(2, 1, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return of.encoder(loaded.repeat(1, of.in_channels, 1, 1))


def torchvision_resnet18(planes: tuple[int, ...] = (4, 8, 8, 16)) -> dict[str, Tensor]:
    """A state dict with the names and shapes of torchvision's, written down by hand."""
    generator = torch.Generator().manual_seed(7)

    def normalisation(name: str, width: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": torch.rand(width, generator=generator),
            f"{name}.bias": torch.rand(width, generator=generator),
            f"{name}.running_mean": torch.rand(width, generator=generator),
            f"{name}.running_var": torch.rand(width, generator=generator),
            f"{name}.num_batches_tracked": torch.tensor(3),
        }

    def weight(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) - 0.5

    state = {"conv1.weight": weight(planes[0], 3, 7, 7), **normalisation("bn1", planes[0])}
    before = planes[0]
    for stage, width in enumerate(planes, start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            state[f"{name}.conv1.weight"] = weight(width, before, 3, 3)
            state |= normalisation(f"{name}.bn1", width)
            state[f"{name}.conv2.weight"] = weight(width, width, 3, 3)
            state |= normalisation(f"{name}.bn2", width)
            if block == 0 and stage > 1:
                state[f"{name}.downsample.0.weight"] = weight(width, before, 1, 1)
                state |= normalisation(f"{name}.downsample.1", width)
            before = width
    return {**state, "fc.weight": weight(1000, planes[-1]), "fc.bias": weight(1000)}


def test_torchvisions_names_fit_resnet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = torchvision_resnet18()
    assert len(state) == 122  # as many as torchvision's ResNet-18 has
    found = network()
    head = found.cls_head.layers[-1].weight.clone()
    with caplog.at_level(logging.INFO):
        load_encoder_weights(found, saved(state, tmp_path))
    for name, value in found.encoder.state_dict().items():
        expected = state[name].sum(dim=1, keepdim=True) if name == "conv1.weight" else state[name]
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(found.cls_head.layers[-1].weight, head)
    assert "2 tensors of other layers left out: fc" in caplog.text


@pytest.mark.parametrize(("of_file", "of_network"), [(3, 1), (1, 3), (1, 1), (3, 3)])
def test_a_grey_image_gives_what_it_gives_repeated(
    of_file: int, of_network: int, tmp_path: Path
) -> None:
    origin, found = network(in_channels=of_file), network(seed=2, in_channels=of_network)
    load_encoder_weights(found, saved(origin.encoder.state_dict(), tmp_path))
    for one, other in zip(maps(found), maps(origin), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_two_channels_do_not_fit(tmp_path: Path) -> None:
    state = {**torchvision_resnet18(), "conv1.weight": torch.zeros(4, 2, 7, 7)}
    with pytest.raises(InputError, match=r"conv1.weight has shape \(4, 2, 7, 7\), expected \(4, 1"):
        load_encoder_weights(network(), saved(state, tmp_path))


def test_efficientnets_published_names_have_no_stages(tmp_path: Path) -> None:
    """``_blocks.7.…`` of efficientnet_pytorch is ``_blocks.3.7.…`` in MONAI."""
    origin, found = network("efficientnet-b0", in_channels=3), network("efficientnet-b0", seed=2)
    state = {}
    for name, value in origin.encoder.state_dict().items():
        parts = name.split(".")
        state[".".join([parts[0], *parts[2:]]) if parts[0] == "_blocks" else name] = value
    assert "_blocks.7._depthwise_conv.weight" in state
    behind = {"_conv_head.weight": torch.zeros(5), "_bn1.bias": torch.zeros(5)}
    load_encoder_weights(found, saved({**state, **behind, "_fc.bias": torch.zeros(3)}, tmp_path))
    for one, other in zip(maps(found), maps(origin), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_torchvisions_efficientnet_is_refused_with_a_way_out(tmp_path: Path) -> None:
    state = {"features.0.0.weight": torch.zeros(32, 3, 3, 3), "classifier.1.bias": torch.zeros(9)}
    with pytest.raises(InputError, match=r"_conv_stem.weight is missing.*tf_efficientnet_b0"):
        load_encoder_weights(network("efficientnet-b0"), saved(state, tmp_path))


def test_the_encoder_of_another_run(tmp_path: Path) -> None:
    options = {"widths": [4, 8, 16]}
    origin = MultiTaskUNet(encoder_options=options)
    found = MultiTaskUNet(encoder_options=options, classes=2, attention=True)
    load_encoder_weights(found, saved(origin.state_dict(), tmp_path, "model.pt"))
    for name, value in found.encoder.state_dict().items():
        torch.testing.assert_close(value, origin.encoder.state_dict()[name])


def test_old_files_lack_the_counters(tmp_path: Path) -> None:
    state = {k: v for k, v in torchvision_resnet18().items() if not k.endswith("_tracked")}
    found = network()
    counter = found.encoder.bn1.num_batches_tracked.clone()
    load_encoder_weights(found, saved(state, tmp_path))
    assert found.encoder.bn1.num_batches_tracked == counter
    torch.testing.assert_close(found.encoder.bn1.running_var, state["bn1.running_var"])


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_training_checkpoint_with_names_of_several_gpus(key: str, tmp_path: Path) -> None:
    state = torchvision_resnet18()
    wrapped = {key: {f"module.{name}": value for name, value in state.items()}, "epoch": 7}
    found = network()
    load_encoder_weights(found, saved(wrapped, tmp_path))
    torch.testing.assert_close(found.encoder.layer4[1].bn2.bias, state["layer4.1.bn2.bias"])


def test_a_layer_too_few_or_too_many_is_named(tmp_path: Path) -> None:
    state = torchvision_resnet18()
    del state["layer3.1.conv2.weight"]
    state["layer3.2.conv1.weight"] = torch.zeros(1)
    found = network()
    before = found.encoder.conv1.weight.clone()
    with pytest.raises(InputError) as caught:
        load_encoder_weights(found, saved(state, tmp_path))
    assert "layer3.1.conv2.weight is missing" in str(caught.value)
    assert "layer3.2.conv1.weight is unknown" in str(caught.value)
    assert "names of torchvision's ResNet" in str(caught.value)
    torch.testing.assert_close(found.encoder.conv1.weight, before)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r18\.pth does not exist.*nothing is downloaded"):
        load_encoder_weights(network(), tmp_path / "r18.pth")


def test_a_pickle_is_refused_without_running_it(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError):
        load_encoder_weights(network(), tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_no_state_dict(content: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a flat state dict"):
        load_encoder_weights(network(), saved(content, tmp_path))


def test_a_network_without_encoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a Conv2d has none"):
        load_encoder_weights(nn.Conv2d(1, 1, 1), saved({}, tmp_path))


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip(
        "safetensors.torch", reason="the extra 'encoders' is not installed"
    )
    state = torchvision_resnet18()
    safetensors.save_file(state, tmp_path / "weights.safetensors")
    found = network()
    load_encoder_weights(found, tmp_path / "weights.safetensors")
    torch.testing.assert_close(found.encoder.bn1.bias, state["bn1.bias"])
    (tmp_path / "damaged.safetensors").write_bytes(b"no such file")
    with pytest.raises(InputError, match=r"damaged.safetensors is damaged"):
        load_encoder_weights(found, tmp_path / "damaged.safetensors")


def test_safetensors_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'busi-monai\[encoders\]'"):
        load_encoder_weights(network(), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_torchvisions_own_network_gives_the_same_maps(name: str, tmp_path: Path) -> None:
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision cannot be imported here: {error}")
    torch.manual_seed(0)
    origin = getattr(torchvision.models, name)(weights=None).eval()
    found = MultiTaskUNet(name, segmentation=False).eval()
    load_encoder_weights(found, saved(origin.state_dict(), tmp_path))
    image = torch.rand(1, 3, 64, 96)[:, :1].repeat(1, 3, 1, 1)
    with torch.no_grad():
        stem = origin.relu(origin.bn1(origin.conv1(image)))
        expected = [stem, origin.layer1(origin.maxpool(stem))]
        for layer in (origin.layer2, origin.layer3, origin.layer4):
            expected.append(layer(expected[-1]))
        for one, other in zip(found.encoder(image[:, :1]), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def whole(seed: int, **options: Any) -> MultiTaskUNet:
    torch.manual_seed(seed)
    return MultiTaskUNet(
        encoder_options={"widths": [4, 8, 12]}, head_channels=[6], dropout=0.0, **options
    )


def assert_loaded(found: MultiTaskUNet, origin: MultiTaskUNet, left_out: tuple[str, ...]) -> None:
    """Every tensor is the origin's, but for those whose names begin as given."""
    expected = origin.state_dict()
    for name, value in found.state_dict().items():
        if not name.startswith(left_out):
            assert torch.equal(value, expected[name]), name


def test_a_whole_network_is_begun_with(tmp_path: Path) -> None:
    origin, found = whole(1, deep_supervision=True), whole(2, deep_supervision=True)
    origin(torch.rand(4, 1, 16, 16))  # so that the normalisations have seen something
    assert load_initial_weights(found, saved(origin.state_dict(), tmp_path)) == ()
    assert found.state_dict().keys() == origin.state_dict().keys()
    assert_loaded(found, origin, ("nothing",))


@pytest.mark.parametrize(
    ("of_file", "of_network", "left_out", "prefixes"),
    [
        ({"classes": 2}, {}, "class head", ("cls_head.",)),
        ({"pooling": "mask"}, {}, "class head", ("cls_head.",)),
        ({"classes": 0}, {}, "class head", ("cls_head.",)),
        ({}, {"classes": 0}, "class head", ("cls_head.",)),
        ({"segmentation": False}, {}, "mask head", ("decoder.", "seg_head.")),
        ({}, {"segmentation": False}, "mask head", ("decoder.", "seg_head.")),
        ({"deep_supervision": True}, {}, "mask heads of the coarser levels", ("aux_heads.",)),
        ({}, {"deep_supervision": True}, "mask heads of the coarser levels", ("aux_heads.",)),
    ],
)
def test_heads_that_one_side_lacks_are_left_out_and_named(
    of_file: dict[str, Any],
    of_network: dict[str, Any],
    left_out: str,
    prefixes: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    origin, found = whole(1, **of_file), whole(2, **of_network)
    fresh = {name: value.clone() for name, value in found.state_dict().items()}
    with caplog.at_level(logging.INFO):
        assert load_initial_weights(found, saved(origin.state_dict(), tmp_path)) == (left_out,)
    assert f"left out: {left_out}" in caplog.text
    assert_loaded(found, origin, prefixes)
    for name, value in found.state_dict().items():
        if name.startswith(prefixes):
            assert torch.equal(value, fresh[name]), name


def test_a_class_head_of_other_classes_is_left_out_though_it_fits(tmp_path: Path) -> None:
    origin, found = whole(1), whole(2)
    path = saved(origin.state_dict(), tmp_path)
    assert load_initial_weights(found, path, class_head=False) == ("class head",)
    assert not torch.equal(found.cls_head.layers[0].weight, origin.cls_head.layers[0].weight)
    assert_loaded(found, origin, ("cls_head.",))


def test_another_architecture_is_refused_and_nothing_loaded(tmp_path: Path) -> None:
    found = whole(2)
    fresh = {name: value.clone() for name, value in found.state_dict().items()}
    gated = saved(whole(1, attention=True).state_dict(), tmp_path)
    with pytest.raises(InputError, match=r"decoder\.\S+ is unknown to the network"):
        load_initial_weights(found, gated)
    wider = MultiTaskUNet(encoder_options={"widths": [6, 8, 12]}, head_channels=[6], dropout=0.0)
    with pytest.raises(InputError, match=r"encoder\.\S+ has shape .*encoder_weights takes"):
        load_initial_weights(found, saved(wider.state_dict(), tmp_path))
    half = {k: v for k, v in whole(1).state_dict().items() if not k.startswith("seg_head")}
    with pytest.raises(InputError, match=r"seg_head\.\S+ is missing"):
        load_initial_weights(found, saved(half, tmp_path))
    assert all(torch.equal(value, fresh[name]) for name, value in found.state_dict().items())


def test_initial_weights_in_half_precision_and_of_a_wrapped_network(tmp_path: Path) -> None:
    origin, found = whole(1), whole(2)
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in origin.state_dict().items()
    }
    wrapped = nn.Module()
    wrapped.module = found
    load_initial_weights(wrapped, saved(state, tmp_path))
    weight = found.seg_head.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["seg_head.weight"].float())


def test_initial_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"initial_run: .*model\.pt does not exist"):
        load_initial_weights(whole(1), tmp_path / "model.pt")
    with pytest.raises(InputError, match="expected a flat state dict"):
        load_initial_weights(whole(1), saved([1, 2], tmp_path))
