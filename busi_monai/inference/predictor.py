"""``Predictor``: the only way from an image to a prediction, whoever asks for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import DEFAULT_BUNDLE
from busi_monai.devices import DeviceChoice, PrecisionChoice, choose_device, choose_precision
from busi_monai.errors import ImageReadError, InputError, first_cause
from busi_monai.files import file_sha256
from busi_monai.inference.dicom_objects import ModelIdentity
from busi_monai.inference.inferers import PlainInferer, class_heat_map, single_networks
from busi_monai.inference.prediction import (
    Prediction,
    Uncertainty,
    disagreement,
    prediction_of_item,
)
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile, LoadedImage
from busi_monai.networks import load_weights
from busi_monai.networks.autocast import AutocastInferer
from busi_monai.settings import InferenceSettings
from busi_monai.transforms.batches import plain

__all__ = ["Predictor"]

logger = logging.getLogger(__name__)

Source = str | Path | ImageBytes | ImageFile | LoadedImage | NDArray[Any]


@dataclass(eq=False, kw_only=True)
class Predictor:
    """Predicts with the objects of a bundle's ``configs/inference.yaml``, and none of its own.

    Make one with ``Predictor.load``.

    Attributes:
        network: on the device, in evaluation mode.
        settings: the bundle's operating point; ``settings.classes`` are the class names.
        device: the device with the reason it was taken.
        precision: the arithmetic with the reason it was taken.
        tta_flip: whether the mirror image is predicted too and averaged.
        operating_point: name of that in ``settings.json`` at which malignancy is decided, or
            ``None``.
        bundle: folder of the bundle or run.
        weights: path of its ``models/model.pt``.
    """

    network: torch.nn.Module
    settings: InferenceSettings
    device: DeviceChoice
    precision: PrecisionChoice
    tta_flip: bool
    operating_point: str | None
    bundle: Path
    weights: Path
    _preprocessing: Callable[[Any], Any]
    _postprocessing: Callable[[Any], Any]
    _inferer: Callable[..., Any]

    def __post_init__(self) -> None:
        """Bring the network to the device."""
        self.network = self.network.to(self.device.name).eval()

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        device: str = "auto",
        precision: str = "fp32",
        *,
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
            tta_flip: whether the mirror image is predicted too and averaged; by default as
                the bundle's ``settings.json`` says.
            operating_point: one of those that ``settings.json`` holds, such as
                ``sensitivity_95``, to decide malignancy at; by default the most probable class.
            consistency: whether mask and class are made to agree; by default as ``settings.json``
                says.

        Raises:
            InputError: if there is no such bundle, device or operating point, or its configuration
                lacks an id.
            WeightsError: if its weights are missing, refused, or of another architecture.
        """
        opened = Bundle.open(DEFAULT_BUNDLE if bundle is None else bundle)
        chosen = choose_device(device)
        arithmetic = choose_precision(precision, chosen)
        return cls._of(
            opened, None, chosen, arithmetic, tta_flip, operating_point, consistency=consistency
        )

    @classmethod
    def _of(
        cls,
        bundle: Bundle,
        network: torch.nn.Module | None,
        device: DeviceChoice,
        precision: PrecisionChoice,
        tta_flip: bool | None,
        operating_point: str | None,
        *,
        consistency: bool | Mapping[str, Any] | None,
    ) -> Predictor:
        parser = bundle.inference(device.name, precision.name)
        if tta_flip is not None:
            parser["prediction_inferer#tta_flip"] = tta_flip
        for name, value in (("operating_point", operating_point), ("consistency", consistency)):
            if value is not None:
                bundle.parsed(parser, name)  # an older configuration would pass it over
                parser[name] = value
        if network is None:
            network = bundle.parsed(parser, "network_def")
            load_weights(network, bundle.weights)
        return cls(
            network=network,
            settings=bundle.parsed(parser, "settings"),
            _preprocessing=bundle.parsed(parser, "preprocessing"),
            _postprocessing=bundle.parsed(parser, "postprocessing"),
            _inferer=bundle.parsed(parser, "inferer"),
            device=device,
            precision=precision,
            tta_flip=bundle.parsed(parser, "prediction_inferer").averages_flips,
            operating_point=operating_point,
            bundle=bundle.folder,
            weights=bundle.weights,
        )

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
        return self._of(
            Bundle(self.bundle), self.network, self.device, self.precision, self.tta_flip,
            operating_point, consistency=asdict(self.settings.consistency),
        )  # fmt: skip

    def predict(self, source: Source) -> Prediction:
        """Predict for one image.

        Args:
            source: path of an image, its content in memory, one image of a file that holds
                several, a ``LoadedImage``, or pixels (H, W) or (H, W, 3) as uint8 or floats in
                [0, 1].

        Raises:
            ImageReadError: if the image cannot be read.
        """
        ((_, prediction),) = self.predict_many([source])
        if isinstance(prediction, Exception):
            raise prediction
        return prediction

    def predict_many(
        self, sources: Iterable[Source], *, batch_size: int = 1
    ) -> Iterator[tuple[Source, Prediction | ImageReadError]]:
        """Yield each source with its prediction, in order, going on past images that fail.

        Args:
            sources: paths or pixels, as for ``predict``.
            batch_size: images for one call of the network. One is as fast on a CPU.

        Yields:
            (source, prediction), or (source, error) for an image that could not be read.

        Raises:
            InputError: if ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        waiting = iter(sources)
        while batch := list(islice(waiting, batch_size)):
            yield from self._predict_batch(batch)

    def views(self, source: Source) -> list[Prediction]:
        """Predict for one image and for its mirror image apart, by each member of an ensemble.

        Returns:
            Two predictions for each member, masks mirrored back. Their mean need not be what
            ``predict`` gives, which averages logits.

        Raises:
            ImageReadError: if the image cannot be read.
        """
        item, image = self._read_one(source)
        once = AutocastInferer(self.precision.name, inner=PlainInferer())
        found = []
        for network in single_networks(self.network):
            for mirrored in (False, True):
                with torch.no_grad():
                    outputs = once(image.flip(-1) if mirrored else image, network)
                if mirrored and "seg" in outputs:
                    outputs["seg"] = outputs["seg"].flip(-1)
                (done,) = self._finished([item], outputs)
                found.append(prediction_of_item(done, self.settings.classes, 0.0))
        return found

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
        item, image = self._read_one(source)
        places = class_heat_map(self.network, image, self.settings.classes.index(class_name))
        # goes back to native size as the lesion's probability does
        (done,) = self._finished([item], {"seg": torch.logit(places, eps=1e-6)[None, None]})
        return prediction_of_item(done, (), 0.0).lesion_probability

    def identity(self) -> ModelIdentity:
        """Return what DICOM objects and answers tell of the model."""
        return ModelIdentity(self.bundle.name, self._weights_sha256)

    def provenance(self) -> dict[str, Any]:
        """Return what ``run.json`` tells of a prediction: bundle, weights, device, precision."""
        return {
            "bundle": str(self.bundle),
            "weights_sha256": self._weights_sha256,
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
        return file_sha256(self.weights)

    def _predict_batch(
        self, sources: list[Source]
    ) -> Iterator[tuple[Source, Prediction | ImageReadError]]:
        started = time.perf_counter()
        items = [self._read(source) for source in sources]
        predicted = iter(self._infer([item for item in items if not isinstance(item, Exception)]))
        done = [item if isinstance(item, Exception) else next(predicted) for item in items]
        seconds = (time.perf_counter() - started) / len(sources)
        for source, item in zip(sources, done, strict=True):
            if isinstance(item, ImageReadError):
                yield source, item
            else:
                yield source, prediction_of_item(item, self.settings.classes, seconds)

    def _read_one(self, source: Source) -> tuple[dict[str, Any], torch.Tensor]:
        """Return an item, and its image as a batch of one on the device."""
        item = self._read(source)
        if isinstance(item, Exception):
            raise item
        return item, plain(item["image"])[None].to(self.device.name)

    def _read(self, source: Source) -> dict[str, Any] | ImageReadError:
        image = str(source) if isinstance(source, Path) else source
        try:
            return dict(self._preprocessing({"image": image}))
        except Exception as error:
            # MONAI wraps a transform's error into RuntimeError; one file must not stop the others
            return _read_error(error, source)

    def _infer(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not items:
            return []
        images = torch.stack([plain(item["image"]) for item in items]).to(self.device.name)
        with torch.no_grad():
            outputs = self._inferer(images, self.network)
        return self._finished(items, outputs)

    def _finished(
        self, items: list[dict[str, Any]], outputs: Mapping[str, torch.Tensor]
    ) -> list[dict[str, Any]]:
        heads = {name: logits.float().cpu() for name, logits in outputs.items()}
        return [
            dict(self._postprocessing({**item, **{name: heads[name][index] for name in heads}}))
            for index, item in enumerate(items)
        ]


def _read_error(error: Exception, source: Source) -> ImageReadError:
    cause = first_cause(error, ImageReadError)
    if cause is not None:
        return cause
    name = "the given pixels" if isinstance(source, (np.ndarray, LoadedImage)) else str(source)
    inner = error.__cause__ or error
    logger.debug("reading %s failed", name, exc_info=error)
    return ImageReadError(f"{name}: cannot be read: {type(inner).__name__}: {inner}")
