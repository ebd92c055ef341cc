"""What computes a prediction without torch: an exported graph, in ONNX Runtime or OpenVINO."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.bundle import Bundle
from busi_monai.devices import check_device
from busi_monai.errors import InputError
from busi_monai.imaging import decide, fitted_place
from busi_monai.inference.prediction import Prediction
from busi_monai.io.images import LoadedImage
from busi_monai.settings import InferenceSettings, load_settings
from busi_monai.threads import computing_threads

__all__ = [
    "ENGINES",
    "METADATA",
    "EngineChoice",
    "GraphEngine",
    "choose_engine",
    "graph_mismatch",
    "image_planes",
    "sees_gpu",
]

ENGINES = ("auto", "torch", "onnx", "openvino")
GRAPH_SETTINGS = (
    "classes", "image_size", "aspect", "normalisation", "median_filter", "clahe", "lesion_crop",
    "tta_flip",
)  # fmt: skip
"""Settings that a graph is made with; the others, such as thresholds, work on its outputs."""

METADATA = ("settings.json", "weights_sha256", "prediction_sha256", "version", "intended_use")
"""What an exported graph tells of itself."""

_READ = ("lesion_probability", "logits", "mask_logits")
_RUNTIMES = {
    "onnx": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "'busi-monai[openvino]'"),
}
_DRIVERS = ("libcuda.so.1", "nvcuda.dll", "libamdhip64.so")


@dataclass(frozen=True)
class EngineChoice:
    """``torch``, ``onnx`` or ``openvino``, with the reason it was taken."""

    name: str
    reason: str


class GraphEngine:
    """Predicts by an exported graph, in ONNX Runtime or OpenVINO, fp32, on the CPU.

    May be called by several threads at a time.

    Args:
        bundle: whose graph it is.
        settings: how its outputs become a prediction.
        runtime: ``onnx`` or ``openvino``.

    Raises:
        InputError: if the runtime is not installed.
    """

    def __init__(self, bundle: Bundle, settings: InferenceSettings, runtime: str) -> None:
        self.bundle = bundle
        self.settings = settings
        sessions: dict[str, Any] = {"onnx": _OnnxSession, "openvino": _OpenVinoSession}
        self._open = sessions[runtime]
        self._session: Any = self._open(bundle.graph, computing_threads())
        self.metadata: Mapping[str, str] = self._session.metadata

    @cached_property
    def _single(self) -> Any:
        return self._open(self.bundle.graph, 1)

    @contextlib.contextmanager
    def several(self) -> Iterator[int]:
        """Compute each image with one thread; yield how many images to predict at a time."""
        session, threads = self._session, computing_threads()
        if threads > 1:
            self._session = self._single
        try:
            yield threads
        finally:
            self._session = session

    @property
    def tta_flip(self) -> bool:
        """Whether the graph averages the mirror image."""
        return self.settings.tta_flip

    def at(self, operating_point: str | None) -> GraphEngine:
        """Return an engine of the same graph that decides at another operating point."""
        consistency = asdict(self.settings.consistency)
        settings = load_settings(self.bundle.folder, operating_point, consistency=consistency)
        other = copy.copy(self)
        other.settings = replace(settings, tta_flip=self.tta_flip)
        return other

    def predict(self, images: Sequence[LoadedImage]) -> list[Prediction]:
        """Return the predictions of images, one after another."""
        return [self._predict(image) for image in images]

    def views(self, image: LoadedImage) -> list[Prediction] | None:
        """Return what the network makes of an image and of its mirror image apart.

        ``None`` for an ensemble, whose members the graph does not tell apart.
        """
        found = self._session(image_planes(image.pixels))
        if "mask_logits" not in found and "lesion_probability" in found:
            return None
        views = [self._view(image, found, 0)]
        if self.tta_flip:
            return [*views, self._view(image, found, 1)]
        mirrored = replace(image, pixels=image.pixels[:, ::-1])
        view = self._view(mirrored, self._session(image_planes(mirrored.pixels)), 0)
        return [*views, replace(view, mask=view.mask[:, ::-1])]

    def _predict(self, image: LoadedImage) -> Prediction:
        found = self._session(image_planes(image.pixels))
        probability = None
        if "lesion_probability" in found:
            probability = found["lesion_probability"][0, 0]
        return self._prediction(image, probability, found.get("logits"))

    def _view(
        self, image: LoadedImage, found: Mapping[str, NDArray[Any]], index: int
    ) -> Prediction:
        probability = None
        if "mask_logits" in found:
            size, native = self.settings.image_size, image.pixels.shape
            keep_aspect = self.settings.aspect == "pad"
            (height, width), (top, left) = fitted_place(native, size, keep_aspect=keep_aspect)
            logits = found["mask_logits"][index, 0, top : top + height, left : left + width]
            small = 1 / (1 + np.exp(-logits))
            probability = cv2.resize(small, native[::-1], interpolation=cv2.INTER_LINEAR)
        own = found["logits"][index : index + 1] if "logits" in found else None
        return self._prediction(image, probability, own)

    def _prediction(
        self,
        image: LoadedImage,
        probability: NDArray[np.float32] | None,
        logits: NDArray[np.float32] | None,
    ) -> Prediction:
        probabilities = None
        if logits is not None:
            mean = logits.astype(np.float64).mean(axis=0) / self.settings.temperature
            exponentials = np.exp(mean - mean.max())
            probabilities = (exponentials / exponentials.sum()).tolist()
        mask, predicted_class = decide(probability, probabilities, self.settings)
        named = zip(self.settings.classes, probabilities or (), strict=True)
        return Prediction.of(
            image.pixels.shape, probability, mask, dict(named), predicted_class,
            canvas=image.canvas, scale=image.scale, image_warnings=image.warnings,
        )  # fmt: skip


def image_planes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return grey pixels (H, W) in [0, 1] as the planes (P, 1, H, W) that a graph takes.

    One plane where the pixels are 8-bit values, else three, which hold 24 bits.

    Examples:
        >>> image_planes(np.full((2, 2), 128 / 255, dtype=np.float32)).shape
        (1, 1, 2, 2)
        >>> image_planes(np.full((2, 2), 0.3, dtype=np.float32))[:, 0, 0, 0]
        array([ 76, 128,   0], dtype=uint8)
    """
    grey = np.clip(pixels, 0, 1) * np.float64(255)
    whole = np.round(grey)
    if np.abs(grey - whole).max() < 1e-4:  # float32 knows no more of 8-bit values
        return whole.astype(np.uint8)[None, None]
    # the nearest multiple of 256⁻², as three digits to the base of 256
    digits = np.round(grey * 65536).astype(np.uint32)
    return np.stack([digits >> 16, digits >> 8 & 255, digits & 255]).astype(np.uint8)[:, None]


class _OnnxSession:
    def __init__(self, graph: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # threads that spin take their core from whatever else runs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._run = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self._wanted = [each.name for each in self._run.get_outputs() if each.name in _READ]
        self.metadata = dict(self._run.get_modelmeta().custom_metadata_map)

    def __call__(self, planes: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._wanted, self._run.run(self._wanted, {"image": planes}), strict=True))


class _OpenVinoSession:
    def __init__(self, graph: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": "1",
        }
        model = core.read_model(str(graph))
        self.metadata = _stored_metadata(model)
        self._compiled = core.compile_model(model, "CPU", settings)

    def __call__(self, planes: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        request = self._compiled.create_infer_request()  # one for each thread
        request.infer({"image": planes})
        outputs = {next(iter(output.names)): output for output in self._compiled.outputs}
        return {name: request.get_tensor(output).data.copy() for name, output in outputs.items()}


def _stored_metadata(model: Any) -> dict[str, str]:
    """Return what an ONNX file's metadata hold, where OpenVINO keeps it."""
    places = {key: ["framework", key] for key in METADATA}
    return {
        key: str(model.get_rt_info(place).value)
        for key, place in places.items()
        if model.has_rt_info(place)
    }


def sees_gpu() -> bool:
    """Return whether there is a driver by which torch may find a GPU; torch is not imported."""
    for name in _DRIVERS:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def choose_engine(requested: str, bundle: Bundle, device: str, precision: str) -> EngineChoice:
    """Return the engine to predict with.

    ``auto`` is ONNX Runtime where the bundle ships a graph of its weights and settings and there is
    no GPU; it starts in a tenth of torch's time and takes about half of it for each image.

    Args:
        requested: a name of ``ENGINES``.
        bundle: whose graph it would be.
        device: as asked for: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: as asked for.

    Raises:
        InputError: if a graph is asked for with a GPU, or its runtime is not installed.
    """
    check_device(device)
    if requested not in ENGINES:
        raise InputError(f"unknown engine {requested!r}; expected one of {', '.join(ENGINES)}")
    if requested == "auto":
        against = _against_a_graph(bundle, device, precision)
        if against is not None:
            return EngineChoice("torch", f"auto: {against}")
        return EngineChoice("onnx", "auto: the bundle has an exported graph")
    if requested != "torch":
        if device.startswith("cuda"):
            raise InputError(f"engine {requested} computes on the CPU; use --engine torch")
        module, package = _RUNTIMES[requested]
        if not importlib.util.find_spec(module):
            raise InputError(f"engine {requested} needs {module}: pip install {package}")
    return EngineChoice(requested, "asked for")


def _against_a_graph(bundle: Bundle, device: str, precision: str) -> str | None:
    """Return why a bundle is not to be predicted with by its graph, ``None`` if it is."""
    if device.startswith("cuda") or (device == "auto" and sees_gpu()):
        return "a GPU is there"
    if precision not in {"auto", "fp32"}:
        return f"the graph computes in fp32, not in {precision}"
    if not importlib.util.find_spec("onnxruntime"):
        return "onnxruntime is not installed"
    if not bundle.graph.is_file():
        return f"no models/{bundle.graph.name}; busi-monai export would make one"
    return None


def graph_mismatch(
    metadata: Mapping[str, str], bundle: Bundle, settings: InferenceSettings
) -> str | None:
    """Return why a graph is not that of a bundle's weights and settings, ``None`` if it is."""
    if metadata.get("weights_sha256") != bundle.weights_sha256:
        return "is of other weights"
    if metadata.get("prediction_sha256") != bundle.prediction_sha256:
        return f"is of another {bundle.config_file('inference').name}"
    made, wanted = json.loads(metadata["settings.json"]), json.loads(json.dumps(settings.as_dict()))
    other = [name for name in GRAPH_SETTINGS if made.get(name) != wanted[name]]
    return f"was made with another {', '.join(other)}" if other else None
