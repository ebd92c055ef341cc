"""A bundle as one file that other programs run: ONNX, OpenVINO, TorchScript, ``torch.export``.

Every file is a ``PredictionGraph``: it takes grey pixels of any size and gives the lesion's
probability and mask at native size, the class logits of each view, and features. What turns these
into a prediction, ``settings.json``, travels inside the file, with the hash of the weights, the
version of this package and the intended use.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from busi_monai.bundle import Bundle
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.devices import DeviceChoice, PrecisionChoice
from busi_monai.errors import InputError
from busi_monai.files import atomic_file
from busi_monai.inference.engines import image_planes
from busi_monai.inference.graph import PredictionGraph
from busi_monai.inference.torch_engine import TorchEngine
from busi_monai.io.images import LoadedImage, load_image
from busi_monai.settings import InferenceSettings

__all__ = ["EXPORT_FORMATS", "ExportReport", "export_bundle", "export_network"]

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".ts", "pt2": ".pt2"}
EXPORT_FORMATS = tuple(SUFFIXES)
"""What ``busi-monai export --format`` knows."""

MAX_DIFFERENCE = 1e-3
"""Of a probability, above which a file is no export of its network."""

Stored = dict[str, str]
Compared = tuple[Any, Any, Any]
Run = Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]

_SIZES = ((96, 128), (181, 150), (64, 64))  # of the images that are made for the check


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it agrees.

    Attributes:
        path: the file.
        format: a name of ``EXPORT_FORMATS``.
        outputs: names of the outputs, in the file's order.
        images: number of images on which the file, read again from disk, was compared.
        max_difference: greatest difference of a lesion or class probability on them.
        mask_difference: greatest part of an image's pixels whose mask differs.
    """

    path: Path
    format: str
    outputs: tuple[str, ...]
    images: int
    max_difference: float
    mask_difference: float


def export_bundle(
    model: str | Path,
    out: str | Path | None = None,
    format: str = "onnx",
    *,
    check: Iterable[str | Path] = (),
) -> ExportReport:
    """Write a bundle as one file, run that file and compare it with the bundle's own network.

    Args:
        model: name or folder of a bundle or run.
        out: the file to write, which appears when it is complete; its folder is made. By default,
            and for ``onnx`` alone, the bundle's own ``models/model.onnx``, by which it is then
            predicted without torch.
        format: of ``EXPORT_FORMATS``. ``openvino`` writes a ``.bin`` beside the ``.xml``.
        check: images to compare on; by default three that are made.

    Returns:
        The report with the greatest differences.

    Raises:
        InputError: if the format is unknown or its package is missing, no graph can do what the
            settings ask for, or the file's predictions are others than the network's.
        WeightsError: if the weights are missing or do not fit.
        ImageReadError: if an image to compare on cannot be read.
    """
    if format not in EXPORT_FORMATS:
        raise InputError(f"format must be one of {', '.join(EXPORT_FORMATS)}, got {format!r}")
    bundle = Bundle.open(model)
    if out is None and format != "onnx":
        raise InputError(f"say which {SUFFIXES[format]} file to write: --out FILE")
    path = bundle.graph if out is None else Path(out)
    if path.suffix != SUFFIXES[format]:
        raise InputError(f"{path}: a file of {format} ends in {SUFFIXES[format]}")
    stored = {
        "weights_sha256": bundle.weights_sha256,
        "prediction_sha256": bundle.prediction_sha256,
        "version": version("busi-monai"),
        "intended_use": NOT_FOR_CLINICAL_USE,
    }
    own = TorchEngine.load(
        bundle, DeviceChoice("cpu", "export"), PrecisionChoice("fp32", "export"), consistency=False
    )
    return export_network(
        own.network, path, format, settings=bundle.settings, stored=stored,
        images=[load_image(each) for each in check], own=own,
    )  # fmt: skip


def export_network(
    network: torch.nn.Module,
    path: Path,
    format: str,
    *,
    settings: InferenceSettings,
    stored: Mapping[str, str] | None = None,
    images: Sequence[LoadedImage] = (),
    own: TorchEngine | None = None,
) -> ExportReport:
    """Write a network as ``export_bundle`` writes a bundle's.

    Args:
        network: takes (N, 1, h, w) float32 and returns a dict of logits; it is copied.
        path: the file to write.
        format: of ``EXPORT_FORMATS``.
        settings: what the graph does besides the network, stored in the file.
        stored: what the file is to tell besides; see ``METADATA``.
        images: to compare on; by default three that are made.
        own: what the file is compared with; by default the graph that is written.

    Returns and Raises:
        As ``export_bundle``.
    """
    _check_packages(format)
    graph = PredictionGraph(copy.deepcopy(network).cpu().float(), settings).eval()
    stored = {"settings.json": json.dumps(settings.as_dict()), **(stored or {})}
    write, run = _FORMATS[format]
    images = images or _made_images()
    found_of = functools.partial(_probabilities, graph.outputs, settings.temperature)
    with torch.no_grad(), _quiet():
        planes = [image_planes(each.pixels) for each in images]
        if own is None:
            expected = [found_of(graph(torch.from_numpy(each))) for each in planes]
        else:
            expected = [
                (each.lesion_probability, each.mask, list(each.probabilities.values()))
                for each in (own.predict([image])[0] for image in images)
            ]
        with atomic_file(path) as partial:
            write(graph, partial, stored)
            if format == "openvino":
                partial.with_suffix(".bin").replace(path.with_suffix(".bin"))
        run_file = run(path)
        found = [found_of(run_file(each)) for each in planes]
    report = _compared(path, format, graph.outputs, expected, found)
    if report.max_difference > MAX_DIFFERENCE:
        path.unlink()
        raise InputError(
            f"{format} gives other probabilities than the network, by up to "
            f"{report.max_difference:.4f}; {path} was removed. Predict with --engine torch"
        )
    return report


def _check_packages(format: str) -> None:
    needed = {"onnx": ["onnx", "onnxscript"], "openvino": ["onnx", "onnxscript", "openvino"]}
    missing = [name for name in needed.get(format, []) if not importlib.util.find_spec(name)]
    if missing:
        extra = {"onnx": "'busi-monai[onnx]'", "openvino": "'busi-monai[openvino]'"}[format]
        raise InputError(
            f"exporting to {format} needs {' and '.join(missing)}: pip install {extra}"
        )


def _made_images() -> list[LoadedImage]:
    """Return images whose grey values are those of 8 bits, and one with values between."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, size) / 255 for size in _SIZES]
    images.append(generator.random(_SIZES[0]))
    return [LoadedImage(np.asarray(image, dtype=np.float32)) for image in images]


def _probabilities(names: Sequence[str], temperature: float, outputs: Sequence[Any]) -> Compared:
    """Return lesion probability, mask and class probabilities that a graph's outputs mean."""
    found = dict(zip(names, map(torch.as_tensor, outputs), strict=True))
    mask = probability = classes = None
    if "mask" in found:
        probability, mask = (found[name][0, 0] for name in ("lesion_probability", "mask"))
    if "logits" in found:
        classes = torch.softmax(found["logits"].mean(0) / temperature, 0)
    return probability, mask, classes


def _compared(
    path: Path,
    format: str,
    outputs: tuple[str, ...],
    expected: Sequence[Compared],
    found: Sequence[Compared],
) -> ExportReport:
    differences, masks = [0.0], [0.0]
    for wanted, given in zip(expected, found, strict=True):
        pairs = zip(wanted, given, strict=True)
        probability, mask, classes = (
            None if right is None else np.abs(np.asarray(left, np.float64) - np.asarray(right))
            for left, right in pairs
        )
        differences += [float(each.max()) for each in (probability, classes) if each is not None]
        masks += [] if mask is None else [float(mask.mean())]
    return ExportReport(path, format, outputs, len(found), max(differences), max(masks))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the reader can do nothing about: torch.jit's age, an absent torchvision."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        exporter.setLevel(level)


def _example() -> torch.Tensor:
    return torch.zeros(2, 1, 96, 128, dtype=torch.uint8)


def _any_size() -> dict[str, dict[int, Any]]:
    dimension = torch.export.Dim
    return {
        "image": {
            0: dimension("planes", min=1, max=3),
            2: dimension("height", min=2),
            3: dimension("width", min=2),
        }
    }


def _write_onnx(graph: PredictionGraph, path: Path, stored: Stored) -> None:
    from onnxscript import optimizer

    program = torch.onnx.export(
        graph,
        (_example(),),
        input_names=["image"],
        output_names=list(graph.outputs),
        dynamic_shapes=_any_size(),
        dynamo=True,
        external_data=False,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise InputError("torch gave no ONNX program; install torch>=2.8")
    # its whole optimisation would multiply convolutions by their normalisations: weights that half
    # precision holds exactly would be so no more
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    program.model.metadata_props.update(stored)
    program.save(str(path), external_data=False)
    _halve(path)


def _halve(path: Path) -> None:
    """Store those weights in half precision that it holds exactly."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    casts, kept = [], []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        half = values.astype(np.float16) if values.dtype == np.float32 else None
        if half is None or values.size < 64 or not np.array_equal(half, values):
            kept.append(weight)
            continue
        name = f"{weight.name}_half"
        kept.append(numpy_helper.from_array(half, name))
        casts.append(helper.make_node("Cast", [name], [weight.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    for field, values in (("initializer", kept), ("node", nodes)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(values)
    onnx.save(model, path)


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda planes: list(session.run(None, {"image": planes}))


def _write_openvino(graph: PredictionGraph, path: Path, stored: Stored) -> None:
    import openvino

    onnx_file = path.with_suffix(".onnx")
    try:
        _write_onnx(graph, onnx_file, stored)
        model = openvino.convert_model(onnx_file)
    finally:
        onnx_file.unlink(missing_ok=True)
    for name, text in stored.items():
        model.set_rt_info(text, ["framework", name])
    openvino.save_model(model, path, compress_to_fp16=False)


def _run_openvino(path: Path) -> Run:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hint)
    return lambda planes: list(compiled({"image": planes}).values())


def _write_torchscript(graph: PredictionGraph, path: Path, stored: Stored) -> None:
    traced = torch.jit.trace(graph, (_example(),), check_trace=False)
    torch.jit.save(traced, str(path), _extra_files=stored)


def _run_torchscript(path: Path) -> Run:
    loaded = torch.jit.load(str(path), map_location="cpu")
    return lambda planes: loaded(torch.from_numpy(planes))


def _write_pt2(graph: PredictionGraph, path: Path, stored: Stored) -> None:
    program = torch.export.export(graph, (_example(),), dynamic_shapes=_any_size())
    torch.export.save(program, path, extra_files=stored)


def _run_pt2(path: Path) -> Run:
    loaded = torch.export.load(path).module()
    return lambda planes: loaded(torch.from_numpy(planes))


_FORMATS: dict[str, tuple[Callable[[PredictionGraph, Path, Stored], None], Callable[[Path], Run]]]
_FORMATS = {
    "onnx": (_write_onnx, _run_onnx),
    "openvino": (_write_openvino, _run_openvino),
    "torchscript": (_write_torchscript, _run_torchscript),
    "pt2": (_write_pt2, _run_pt2),
}
"""How each format is written, and how a written file is run."""
