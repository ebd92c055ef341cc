from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from busi_monai.errors import InputError
from busi_monai.inference import ExportReport, export_bundle_network
from busi_monai.networks import POOLINGS, MultiTaskUNet
from busi_monai.settings import InferenceSettings

SIZE = (32, 64)
OPERATING = InferenceSettings(image_size=SIZE, temperature=1.7, class_thresholds={"malignant": 0.3})


def small_network(encoder: str = "resnet18", **heads: object) -> MultiTaskUNet:
    options = {
        "unet": {"widths": [4, 8, 16]},
        "resnet18": {"widths": [4, 8, 8, 16]},
        "resnet50": {"widths": [4, 8, 8, 16]},
        "basicunet": {"features": [4, 4, 8, 8, 16, 4]},
        "monai_unet": {"widths": [4, 8, 16], "level_strides": [2, 2]},
        "basicunetplusplus": {"features": [4, 4, 8, 8, 16, 4]},
        "segresnet": {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
        "dynunet": {"filters": [4, 8, 16], "level_strides": [1, 2, 2]},
    }
    torch.manual_seed(0)
    network = MultiTaskUNet(encoder, encoder_options=options.get(encoder), **heads)  # type: ignore[arg-type]
    network(torch.rand(4, 1, *SIZE))
    return network


def needs(format: str) -> None:
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)


def stored_operating_point(path: Path, format: str) -> Any:
    extra = {"settings.json": ""}
    if format == "onnx":
        import onnx

        extra = {item.key: item.value for item in onnx.load(path).metadata_props}
    elif format == "torchscript":
        torch.jit.load(str(path), _extra_files=extra)
    else:
        torch.export.load(str(path), extra_files=extra)
    return json.loads(extra["settings.json"])


def check(report: ExportReport, network: MultiTaskUNet) -> None:
    assert report.path.is_file()
    assert report.heads == ("seg", "cls")
    assert report.max_abs_difference is not None
    assert report.max_abs_difference < 1e-4
    assert network.training
    assert stored_operating_point(report.path, report.format) == json.loads(
        json.dumps(OPERATING.as_dict())
    )
    assert [path.name for path in report.path.parent.iterdir()] == [report.path.name]


@pytest.mark.parametrize(("format", "encoder"), [("torchscript", "resnet18"), ("pt2", "unet")])
def test_the_file_gives_what_the_network_gives(format: str, encoder: str, tmp_path: Path) -> None:
    network = small_network(encoder)
    out = tmp_path / "sub" / f"model.{format}"
    check(export_bundle_network(network, out, format, settings=OPERATING), network)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        "monai_unet",
        "basicunet",
        "basicunetplusplus",
        "segresnet",
        "dynunet",
        "resnet50",
        "efficientnet-b0",
        "efficientnet-b2",
        "efficientnet-lite0",
    ],
)
def test_onnx_of_other_encoders(encoder: str, tmp_path: Path) -> None:
    needs("onnx")
    report = export_bundle_network(
        small_network(encoder), tmp_path / "model.onnx", settings=OPERATING
    )
    assert report.max_abs_difference is not None
    assert report.max_abs_difference < 1e-3


@pytest.mark.slow
def test_onnx_names_and_batch(tmp_path: Path) -> None:
    needs("onnx")
    import onnxruntime

    path = tmp_path / "model.onnx"
    network = small_network(attention=True)
    report = export_bundle_network(network, path, settings=OPERATING)
    check(report, network)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.shape[1:]) == ("image", [1, *SIZE])
    assert isinstance(image.shape[0], str)
    assert [output.name for output in session.get_outputs()] == ["seg", "cls"]
    for count in (1, 4):
        mask, logits = session.run(None, {"image": torch.rand(count, 1, *SIZE).numpy()})
        assert (mask.shape, logits.shape) == ((count, 1, *SIZE), (count, 3))


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "average"])
def test_every_pooling_of_the_class_head(pooling: str, format: str, tmp_path: Path) -> None:
    network = small_network("unet", pooling=pooling)
    out = tmp_path / f"model.{format}"
    check(export_bundle_network(network, out, format, settings=OPERATING), network)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "average"])
def test_onnx_of_every_pooling_takes_any_number_of_images(pooling: str, tmp_path: Path) -> None:
    needs("onnx")
    network = small_network("unet", pooling=pooling)
    check(export_bundle_network(network, tmp_path / "m.onnx", settings=OPERATING), network)


def test_a_network_with_one_head(tmp_path: Path) -> None:
    report = export_bundle_network(
        small_network("unet", segmentation=False),
        tmp_path / "m.ts",
        "torchscript",
        settings=OPERATING,
    )
    assert report.heads == ("cls",)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of onnx, torchscript, pt2, got 'tflite'"):
        export_bundle_network(small_network("unet"), tmp_path / "m", "tflite", settings=OPERATING)


def test_without_the_onnx_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxscript: pip install 'busi-monai"):
        export_bundle_network(small_network("unet"), tmp_path / "model.onnx", settings=OPERATING)
    assert list(tmp_path.iterdir()) == []
