from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from busi_monai.bundle import Bundle
from busi_monai.errors import InputError
from busi_monai.inference import ExportReport, Predictor, export_bundle
from busi_monai.inference.engines import METADATA, image_planes
from busi_monai.inference.export import export_network
from busi_monai.inference.graph import PredictionGraph
from busi_monai.networks import POOLINGS, MultiTaskUNet
from busi_monai.settings import InferenceSettings, LesionCrop

SIZE = (32, 64)
SETTINGS = InferenceSettings(image_size=SIZE, temperature=1.7, class_thresholds={"malignant": 0.3})
OUTPUTS = ("lesion_probability", "mask", "logits", "features", "mask_logits")


def small_network(encoder: str = "unet", **heads: object) -> MultiTaskUNet:
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


def needs_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)


def check(report: ExportReport) -> None:
    assert report.outputs == OUTPUTS
    assert report.images == 4
    assert report.max_difference < 1e-4 and report.mask_difference < 1e-3


def stored(path: Path, format: str) -> dict[str, Any]:
    extra = dict.fromkeys(METADATA, "")
    if format == "onnx":
        import onnx

        return {item.key: item.value for item in onnx.load(path).metadata_props}
    if format == "torchscript":
        torch.jit.load(str(path), _extra_files=extra)
        return {name: bytes(text).decode() for name, text in extra.items()}
    torch.export.load(str(path), extra_files=extra)
    return extra


@pytest.mark.parametrize(
    ("format", "suffix"),
    [
        ("torchscript", ".ts"),
        ("pt2", ".pt2"),
        pytest.param("onnx", ".onnx", marks=pytest.mark.slow),
    ],
)
def test_a_bundle_as_one_file(format: str, suffix: str, tiny_bundle: Path, tmp_path: Path) -> None:
    if format == "onnx":
        needs_onnx()
    path = tmp_path / "sub" / f"model{suffix}"
    check(export_bundle(tiny_bundle, path, format))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    told, bundle = stored(path, format), Bundle(tiny_bundle)
    assert set(told) == set(METADATA)
    assert json.loads(told["settings.json"]) == json.loads(json.dumps(bundle.settings.as_dict()))
    assert told["weights_sha256"] == bundle.weights_sha256
    assert "research use only" in told["intended_use"]


@pytest.mark.parametrize(
    "settings",
    [
        InferenceSettings(image_size=SIZE),
        InferenceSettings(image_size=SIZE, tta_flip=True, normalisation="zscore", aspect="pad"),
    ],
)
@pytest.mark.parametrize("shape", [(48, 40), (20, 90), (32, 64), (200, 301)])
def test_the_graph_gives_what_the_bundles_transforms_give(
    settings: InferenceSettings, shape: tuple[int, int], tiny_bundle: Path, tmp_path: Path
) -> None:
    import shutil

    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    settings.save(bundle)
    predictor = Predictor.load(bundle, device="cpu", engine="torch")
    pixels = np.random.default_rng(1).random(shape, dtype=np.float32)
    expected = predictor.predict(pixels)
    graph = PredictionGraph(predictor.network, settings).eval()
    with torch.no_grad():
        outputs = graph(torch.from_numpy(image_planes(pixels)))
    found = dict(zip(graph.outputs, outputs, strict=True))
    probability = found["lesion_probability"][0, 0].numpy()
    np.testing.assert_allclose(probability, expected.lesion_probability, atol=1e-5)
    classes = torch.softmax(found["logits"].mean(0), 0).tolist()
    assert classes == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    assert found["logits"].shape == (2 if settings.tta_flip else 1, 3)
    assert found["features"].shape == (1, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        "resnet18",
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
    needs_onnx()
    network = small_network(encoder)
    check(export_network(network, tmp_path / "model.onnx", "onnx", settings=SETTINGS))
    assert network.training


@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "average"])
def test_every_pooling_of_the_class_head(pooling: str, format: str, tmp_path: Path) -> None:
    if format == "onnx":
        needs_onnx()
    network = small_network(pooling=pooling)
    check(export_network(network, tmp_path / f"model.{format}", format, settings=SETTINGS))


@pytest.mark.parametrize(
    ("heads", "classes", "outputs"),
    [
        ({"segmentation": False}, SETTINGS.classes, ("logits", "features")),
        ({"classes": 0}, (), ("lesion_probability", "mask", "mask_logits")),
    ],
)
def test_a_network_with_one_head(
    heads: dict[str, Any], classes: tuple[str, ...], outputs: tuple[str, ...], tmp_path: Path
) -> None:
    settings = InferenceSettings(classes=classes, image_size=SIZE)
    network = small_network(**heads)
    report = export_network(network, tmp_path / "m.ts", "torchscript", settings=settings)
    assert report.outputs == outputs


@pytest.mark.parametrize(
    "step", [{"median_filter": 3}, {"clahe": True}, {"lesion_crop": LesionCrop()}]
)
def test_what_no_graph_covers(step: dict[str, Any]) -> None:
    settings = InferenceSettings(image_size=SIZE, **step)
    with pytest.raises(InputError, match=f"covers {next(iter(step))}; predict with --engine torch"):
        PredictionGraph(small_network(), settings)


def test_unknown_format_and_wrong_suffix(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of onnx, openvino, torchscript, pt2, got 'tflite'"):
        export_bundle(tiny_bundle, tmp_path / "m", "tflite")
    with pytest.raises(InputError, match=r"m.ts: a file of pt2 ends in .pt2"):
        export_bundle(tiny_bundle, tmp_path / "m.ts", "pt2")
    with pytest.raises(InputError, match=r"say which .pt2 file to write"):
        export_bundle(tiny_bundle, None, "pt2")


def test_without_the_onnx_packages(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxscript: pip install 'busi-monai"):
        export_bundle(tiny_bundle, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
