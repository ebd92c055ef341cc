"""Which engine is taken, and that a graph says what the network says."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from busi_monai.bundle import Bundle
from busi_monai.errors import InputError
from busi_monai.inference import EngineChoice, Predictor
from busi_monai.inference.engines import choose_engine, graph_mismatch, image_planes
from busi_monai.io.images import read_image


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busi_monai.inference.engines.sees_gpu", lambda: False)


@pytest.fixture
def with_graph(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle beside whose weights lies a graph, of other weights as it happens."""
    bundle = Bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    shutil.copyfile(Bundle.open().graph, bundle.graph)
    return bundle


def test_auto_takes_the_graph_where_there_is_no_gpu(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, no_gpu: None
) -> None:
    shipped = Bundle.open()
    assert choose_engine("auto", shipped, "auto", "fp32").name == "onnx"
    assert choose_engine("auto", shipped, "cpu", "auto").name == "onnx"
    for device, precision, reason in [
        ("cuda", "fp32", "a GPU is there"),
        ("cpu", "bf16", "the graph computes in fp32, not in bf16"),
    ]:
        choice = choose_engine("auto", shipped, device, precision)
        assert choice == EngineChoice("torch", f"auto: {reason}")
    without = choose_engine("auto", Bundle(tiny_bundle), "cpu", "fp32")
    assert without.name == "torch" and "busi-monai export would make one" in without.reason
    monkeypatch.setattr("busi_monai.inference.engines.sees_gpu", lambda: True)
    assert choose_engine("auto", shipped, "auto", "fp32").name == "torch"


def test_an_engine_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Bundle.open()
    with pytest.raises(InputError, match="expected one of auto, torch, onnx, openvino"):
        choose_engine("tensorrt", shipped, "cpu", "fp32")
    with pytest.raises(InputError, match="unknown device 'tpu'"):
        choose_engine("auto", shipped, "tpu", "fp32")
    with pytest.raises(InputError, match="engine onnx computes on the CPU"):
        choose_engine("onnx", shipped, "cuda:0", "fp32")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs openvino: pip install 'busi-monai\[openvino\]'"):
        choose_engine("openvino", shipped, "cpu", "fp32")


def test_the_shipped_graph_is_that_of_the_shipped_weights(image: Path, no_gpu: None) -> None:
    bundle = Bundle.open()
    graph = Predictor.load(device="cpu", consistency=False)
    network = Predictor.load(device="cpu", engine="torch", consistency=False)
    assert (graph.engine.name, network.engine.name) == ("onnx", "torch")
    assert graph_mismatch(graph._computing.metadata, bundle, bundle.settings) is None  # type: ignore[union-attr]
    found, expected = graph.predict(image), network.predict(image)
    np.testing.assert_allclose(found.lesion_probability, expected.lesion_probability, atol=1e-4)
    assert np.mean(found.mask != expected.mask) <= 0.001
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert (found.scale, found.image_warnings) == (expected.scale, expected.image_warnings)
    points = graph.settings.operating_points
    assert list(points) == ["sensitivity_90", "sensitivity_95", "sensitivity_98"]
    for name in points:
        assert graph.at(name).predict(image).predicted_class == (
            network.at(name).predict(image).predicted_class
        )


def test_views_and_uncertainty_are_those_of_the_network(image: Path, no_gpu: None) -> None:
    graph = Predictor.load(device="cpu")
    network = Predictor.load(device="cpu", engine="torch")
    for found, expected in zip(graph.views(image), network.views(image), strict=True):
        np.testing.assert_allclose(found.lesion_probability, expected.lesion_probability, atol=1e-4)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert graph.uncertainty(image).score == pytest.approx(
        network.uncertainty(image).score, abs=1e-3
    )
    assert "_own_torch" not in vars(graph)


def test_many_images_at_a_time_give_what_each_gives(image: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(device="cpu")
    pixels = read_image(image).pixels
    sources = [pixels[:, start:] for start in range(9)] + [tmp_path / "missing.png"]
    found = list(predictor.predict_many(sources))
    assert [source is given for (source, _), given in zip(found, sources, strict=True)] == [
        True
    ] * 10
    assert "missing.png" in str(found[-1][1])
    for source, prediction in found[:-1]:
        np.testing.assert_array_equal(prediction.mask, predictor.predict(source).mask)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: None,
        lambda bundle: bundle.graph.unlink(),
        lambda bundle: replace(bundle.settings, image_size=(48, 32)).save(bundle.folder),
    ],
    ids=["other weights", "missing", "other settings"],
)
def test_a_graph_that_does_not_fit_is_exported_anew(
    change: Callable[[Bundle], None],
    with_graph: Bundle,
    image: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("onnxscript")
    change(with_graph)
    with caplog.at_level(logging.WARNING):
        predictor = Predictor.load(with_graph.folder, device="cpu", engine="onnx")
    assert "exported anew" in caplog.text
    assert predictor.engine == EngineChoice("onnx", "asked for")
    expected = Predictor.load(with_graph.folder, device="cpu", engine="torch").predict(image)
    assert predictor.predict(image).probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    caplog.clear()
    assert Predictor.load(with_graph.folder, device="cpu").engine.name == "onnx"
    assert not caplog.text


def test_without_the_exporter_a_graph_that_does_not_fit_means_torch(
    with_graph: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise InputError("exporting to onnx needs onnx")

    monkeypatch.setattr("busi_monai.inference.export.export_bundle", missing)
    predictor = Predictor.load(with_graph.folder, device="cpu")
    assert predictor.engine == EngineChoice("torch", "auto: exporting to onnx needs onnx")
    with pytest.raises(InputError, match="exporting to onnx needs onnx"):
        Predictor.load(with_graph.folder, device="cpu", engine="onnx")


def test_what_the_graph_was_not_made_for_takes_torch() -> None:
    predictor = Predictor.load(device="cpu", tta_flip=False)
    assert predictor.engine.name == "torch" and "another tta_flip" in predictor.engine.reason
    with pytest.raises(InputError, match="another tta_flip than was asked for; use --engine torch"):
        Predictor.load(device="cpu", engine="onnx", tta_flip=False)
    with pytest.raises(InputError, match="engine onnx computes in fp32"):
        Predictor.load(device="cpu", engine="onnx", precision="bf16")


def test_planes_hold_what_the_pixels_are() -> None:
    eight = np.arange(256, dtype=np.float32).reshape(16, 16) / np.float32(255)
    assert image_planes(eight).shape == (1, 1, 16, 16)
    np.testing.assert_array_equal(image_planes(eight)[0, 0], np.arange(256).reshape(16, 16))
    deep = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    deep[0, 0] = 1.0
    planes = image_planes(deep)
    assert planes.shape == (3, 1, 16, 16)
    weights = np.array([1, 1 / 256, 1 / 65536]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose((planes * weights).sum((0, 1)) / 255, deep, atol=1e-7)
