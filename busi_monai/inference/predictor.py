"""``Predictor``: the only way from an image to a prediction, whoever asks for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import DEFAULT_BUNDLE
from busi_monai.devices import (
    DeviceChoice,
    PrecisionChoice,
    choose_device,
    choose_graph_precision,
    choose_precision,
)
from busi_monai.errors import ImageReadError, InputError
from busi_monai.inference.dicom_objects import ModelIdentity
from busi_monai.inference.engines import (
    EngineChoice,
    GraphEngine,
    choose_engine,
    graph_mismatch,
)
from busi_monai.inference.prediction import Prediction, Uncertainty, disagreement
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile, LoadedImage, load_image
from busi_monai.settings import InferenceSettings, load_settings
from busi_monai.threads import in_order

if TYPE_CHECKING:
    import torch

    from busi_monai.inference.torch_engine import TorchEngine

__all__ = ["Predictor"]

logger = logging.getLogger(__name__)

Source = str | Path | ImageBytes | ImageFile | LoadedImage | NDArray[Any]
Outcome = Prediction | ImageReadError


@dataclass(eq=False, kw_only=True)
class Predictor:
    """Predicts with a bundle, by its exported graph or by its network in torch.

    Make one with ``Predictor.load``. It may be asked by several threads at a time.

    Attributes:
        settings: the bundle's, with what was asked for; ``settings.classes`` are the class names.
        engine: what computes, with the reason it was taken.
        device: the device with the reason it was taken.
        precision: the arithmetic with the reason it was taken.
        operating_point: name of that in ``settings.json`` at which malignancy is decided, or
            ``None``.
        bundle: folder of the bundle or run.
        weights: path of its ``models/model.pt``.
    """

    settings: InferenceSettings
    engine: EngineChoice
    device: DeviceChoice
    precision: PrecisionChoice
    operating_point: str | None
    bundle: Path
    weights: Path
    _computing: GraphEngine | TorchEngine
    _loading: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        device: str = "auto",
        precision: str = "fp32",
        *,
        engine: str = "auto",
        tta_flip: bool | None = None,
        operating_point: str | None = None,
        consistency: bool | None = None,
    ) -> Predictor:
        """Load a shipped bundle by name, or a bundle or run by its folder.

        Args:
            bundle: name or folder; by default the shipped bundle.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            precision: ``fp32``, ``bf16``, ``fp16`` (on a GPU) or ``auto``. Reduced precision moves
                probabilities by a few thousandths.
            engine: ``torch``, ``onnx`` or ``openvino`` (the exported graph, on a CPU, without
                torch), or ``auto``; see ``choose_engine``. A graph that is missing or out of date
                is exported first where it was asked for.
            tta_flip: whether the mirror image is predicted too and averaged; by default as
                the bundle's ``settings.json`` says.
            operating_point: one of those that ``settings.json`` holds, such as
                ``sensitivity_95``, to decide malignancy at; by default the most probable class.
            consistency: whether mask and class are made to agree; by default as ``settings.json``
                says.

        Raises:
            InputError: if there is no such bundle, device, engine or operating point, its
                configuration lacks an id, or an engine was asked for that cannot do this.
            WeightsError: if its weights are missing, refused, or of another architecture.
        """
        opened = Bundle.open(DEFAULT_BUNDLE if bundle is None else bundle)
        settings = load_settings(opened.folder, operating_point, consistency=consistency)
        if tta_flip is not None:
            settings = replace(settings, tta_flip=tta_flip)
        choice = choose_engine(engine, opened, device, precision)
        computing: GraphEngine | TorchEngine | None = None
        if choice.name != "torch":
            place = DeviceChoice("cpu", "asked for" if device == "cpu" else f"engine {choice.name}")
            arithmetic = choose_graph_precision(precision, choice.name)
            choice, computing = _graph_engine(choice, opened, settings)
        if computing is None:
            from busi_monai.inference.torch_engine import TorchEngine

            place = choose_device(device)
            arithmetic = choose_precision(precision, place)
            computing = TorchEngine.load(
                opened,
                place,
                arithmetic,
                tta_flip=tta_flip,
                operating_point=operating_point,
                consistency=consistency,
            )
        return cls(
            settings=computing.settings,
            engine=choice,
            device=place,
            precision=arithmetic,
            operating_point=operating_point,
            bundle=opened.folder,
            weights=opened.weights,
            _computing=computing,
        )

    @property
    def tta_flip(self) -> bool:
        """Whether the mirror image is predicted too and averaged."""
        return self._computing.tta_flip

    def at(self, operating_point: str | None) -> Predictor:
        """Return a predictor at another of ``settings.operating_points``; the network is shared.

        ``None`` is the most probable class.

        Raises:
            InputError: if there is no such operating point.
        """
        points = self.settings.operating_points
        if operating_point is not None and operating_point not in points:
            known = ", ".join(points)
            raise InputError(f"no operating point {operating_point!r}; there are {known or 'none'}")
        computing = self._computing.at(operating_point)
        return replace(
            self,
            settings=computing.settings,
            operating_point=operating_point,
            _computing=computing,
        )

    def predict(self, source: Source) -> Prediction:
        """Predict for one image.

        Args:
            source: path of an image, its content in memory, one image of a file that holds
                several, a ``LoadedImage``, or pixels (H, W) or (H, W, 3) as uint8 or floats in
                [0, 1].

        Raises:
            ImageReadError: if the image cannot be read.
        """
        ((_, prediction),) = self._predict_batch([source])
        if isinstance(prediction, Exception):
            raise prediction
        return prediction

    def predict_many(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = 1,
        then: Callable[[Source, LoadedImage, Prediction], object] | None = None,
        load: Callable[[Source], LoadedImage] = load_image,
    ) -> Iterator[tuple[Source, Outcome]]:
        """Yield each source with its prediction, in order, going on past images that fail.

        Images are read, predicted and handed on side by side, one on each core; a few are ahead
        of what is yielded, however many there are.

        Args:
            sources: paths or pixels, as for ``predict``; taken as they are needed.
            batch_size: images for one call of the network. One is as fast on a CPU.
            then: called for each image with what was read and predicted, by the thread that
                predicted it: for what takes its time, such as writing files.
            load: reads an image, such as ``FileDecoder.load``.

        Yields:
            (source, prediction), or (source, error) for an image that could not be read.

        Raises:
            InputError: if ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        waiting = iter(sources)
        batches = iter(lambda: list(islice(waiting, batch_size)), [])
        first = list(islice(batches, 2))
        if len(first) < 2:  # with all threads
            for batch in first:
                yield from self._predict_batch(batch, then, load)
            return
        with self._computing.several() as workers:
            predict = partial(self._predict_batch, then=then, load=load)
            for found in in_order(predict, chain(first, batches), workers):
                yield from found

    def views(self, source: Source) -> list[Prediction]:
        """Predict for one image and for its mirror image apart, by each member of an ensemble.

        Returns:
            Two predictions for each member, masks mirrored back. Their mean need not be what
            ``predict`` gives, which averages logits.

        Raises:
            ImageReadError: if the image cannot be read.
        """
        image = _read(source)
        views = self._computing.views(image)
        return self._torch.views(image) if views is None else views

    def uncertainty(self, source: Source) -> Uncertainty:
        """Return how much the ``views`` of one image disagree.

        Raises:
            ImageReadError: if the image cannot be read.
        """
        return disagreement(self.views(source))

    def heat_map(self, source: Source, class_name: str) -> NDArray[np.float32]:
        """Return which places of an image speak for a class, see ``class_heat_map``.

        Returns:
            (H, W) float32 in [0, 1] at the image's own size.

        Raises:
            ImageReadError: if the image cannot be read.
            InputError: for an unknown class, or a network that this cannot be told of.
        """
        if class_name not in self.settings.classes:
            raise InputError(
                f"unknown class {class_name!r}; expected one of {', '.join(self.settings.classes)}"
            )
        return self._torch.heat_map(_read(source), self.settings.classes.index(class_name))

    @property
    def network(self) -> torch.nn.Module:
        """The network in torch, on the device, in evaluation mode; loaded when first asked for."""
        return self._torch.network

    def identity(self) -> ModelIdentity:
        """Return what DICOM objects and answers tell of the model."""
        return ModelIdentity(self.bundle.name, self._weights_sha256)

    def provenance(self) -> dict[str, Any]:
        """Return what ``run.json`` tells of a prediction: bundle, weights, engine, precision."""
        return {
            "bundle": str(self.bundle),
            "weights_sha256": self._weights_sha256,
            "engine": asdict(self.engine),
            "device": {"name": self.device.name, "reason": self.device.reason},
            "precision": {"name": self.precision.name, "reason": self.precision.reason},
            "tta_flip": self.tta_flip,
            "operating_point": self.operating_point,
            "consistency": self.settings.consistency.as_record(),
            "classes": list(self.settings.classes),
            "temperature": self.settings.temperature,
            "class_thresholds": dict(self.settings.class_thresholds),
        }

    @cached_property
    def _weights_sha256(self) -> str:
        return Bundle(self.bundle).weights_sha256

    @property
    def _torch(self) -> TorchEngine:
        """The engine itself, or beside a graph the network in torch, for what no graph gives."""
        with self._loading:
            return self._own_torch

    @cached_property
    def _own_torch(self) -> TorchEngine:
        if not isinstance(self._computing, GraphEngine):
            return self._computing
        from busi_monai.inference.torch_engine import TorchEngine

        return TorchEngine.load(
            Bundle(self.bundle),
            self.device,
            PrecisionChoice("fp32", "beside a graph"),
            tta_flip=self.tta_flip,
            operating_point=self.operating_point,
            consistency=asdict(self.settings.consistency),
        )

    def _predict_batch(
        self,
        sources: Sequence[Source],
        then: Callable[[Source, LoadedImage, Prediction], object] | None = None,
        load: Callable[[Source], LoadedImage] = load_image,
    ) -> list[tuple[Source, Outcome]]:
        started = time.perf_counter()
        read = [_read_or_error(source, load) for source in sources]
        images = [each for each in read if isinstance(each, LoadedImage)]
        predicted = iter(self._computing.predict(images) if images else [])
        seconds = (time.perf_counter() - started) / len(sources)
        found: list[tuple[Source, Outcome]] = []
        for source, image in zip(sources, read, strict=True):
            if isinstance(image, ImageReadError):
                found.append((source, image))
                continue
            prediction = replace(next(predicted), seconds=seconds)
            if then is not None:
                then(source, image, prediction)
            found.append((source, prediction))
        return found


def _graph_engine(
    choice: EngineChoice, bundle: Bundle, settings: InferenceSettings
) -> tuple[EngineChoice, GraphEngine | None]:
    """Return the engine of a bundle's graph, exported anew where it is missing or out of date.

    Where the graph was not asked for and cannot be had, the choice is torch, without an engine yet.
    """
    try:
        engine = None
        if bundle.graph.is_file():
            engine = GraphEngine(bundle, settings, choice.name)
            reason = graph_mismatch(engine.metadata, bundle, bundle.settings)
        else:
            reason = "is missing"
        if reason is not None or engine is None:
            from busi_monai.inference.export import export_bundle

            logger.warning("%s %s; it is exported anew", bundle.graph, reason)
            export_bundle(bundle.folder)
            engine = GraphEngine(bundle, settings, choice.name)
        other = graph_mismatch(engine.metadata, bundle, settings)
        if other is not None:
            raise InputError(f"{bundle.graph} {other} than was asked for; use --engine torch")
    except (InputError, OSError) as error:
        if choice.reason == "asked for":
            raise
        return EngineChoice("torch", f"auto: {error}"), None
    return choice, engine


def _read_or_error(
    source: Source, load: Callable[[Source], LoadedImage]
) -> LoadedImage | ImageReadError:
    try:
        return _read(source, load)
    except ImageReadError as error:
        return error


def _read(source: Source, load: Callable[[Source], LoadedImage] = load_image) -> LoadedImage:
    try:
        return load(source)
    except ImageReadError:
        raise
    except Exception as error:  # one file must not stop the others
        name = "the given pixels" if isinstance(source, (np.ndarray, LoadedImage)) else str(source)
        logger.debug("reading %s failed", name, exc_info=error)
        raise ImageReadError(f"{name}: cannot be read: {type(error).__name__}: {error}") from error
