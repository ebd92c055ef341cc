"""``Predictor``: the only door from a picture to a prediction, whoever asks for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray

from busi_monai.devices import DeviceChoice, PrecisionChoice, choose_device, choose_precision
from busi_monai.errors import BusiMonaiError, ImageReadError, InputError
from busi_monai.files import file_sha256
from busi_monai.image_files import ImageBytes
from busi_monai.images import PictureFile
from busi_monai.inference.dicom_sources import ModelIdentity
from busi_monai.metrics import lesion_box, lesion_diameters
from busi_monai.networks import load_weights
from busi_monai.operating import OperatingPoint
from busi_monai.shipped import DEFAULT_BUNDLE, find_bundle

__all__ = ["Prediction", "Predictor", "inference_config", "prediction_of_item"]

logger = logging.getLogger(__name__)

Source = str | Path | ImageBytes | PictureFile | NDArray[Any]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted for one picture of (H, W) pixels.

    Attributes:
        mask: (H, W) uint8, 1 on the lesion; all 0 if the network has no mask head.
        probabilities: calibrated probability by class name, in the order of the classes; empty if
            the network has no class head.
        predicted_class: the class by the operating point's rules, or ``None``.
        lesion_pixels: number of the mask's pixels.
        lesion_fraction: the same as part of all pixels, in [0, 1].
        box: (x, y, width, height) in pixels around the mask, or ``None`` if it is empty.
        lesion_probability: (H, W) float32 in [0, 1], before the threshold.
        seconds: time taken, reading included; in a batch, the batch's time shared out.
        has_mask: whether the network has a mask head at all, so that an empty mask says something.
        spacing_mm: (row, column) distance of pixels in millimetres, ``None`` where it is unknown.
    """

    mask: NDArray[np.uint8]
    probabilities: dict[str, float]
    predicted_class: str | None
    lesion_pixels: int
    lesion_fraction: float
    box: tuple[int, int, int, int] | None
    lesion_probability: NDArray[np.float32]
    seconds: float
    has_mask: bool = True
    spacing_mm: tuple[float, float] | None = None

    @property
    def confidence(self) -> float | None:
        """Probability of the predicted class, or ``None`` without one."""
        return None if self.predicted_class is None else self.probabilities[self.predicted_class]

    @property
    def lesion_mm2(self) -> float | None:
        """Area of the mask in square millimetres, or ``None`` without spacing."""
        if self.spacing_mm is None:
            return None
        return self.lesion_pixels * self.spacing_mm[0] * self.spacing_mm[1]

    @property
    def diameters_px(self) -> tuple[float, float] | None:
        """Long and short axis of the largest region in pixels, or ``None`` for an empty mask."""
        return lesion_diameters(self.mask)

    @property
    def diameters_mm(self) -> tuple[float, float] | None:
        """The same in millimetres, or ``None`` for an empty mask or without spacing."""
        return None if self.spacing_mm is None else lesion_diameters(self.mask, self.spacing_mm)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pixels as plain JSON values."""
        return {
            "predicted_class": self.predicted_class,
            "probabilities": self.probabilities,
            "lesion_pixels": self.lesion_pixels,
            "lesion_fraction": self.lesion_fraction,
            "box": None if self.box is None else list(self.box),
            "spacing_mm": _listed(self.spacing_mm),
            "lesion_mm2": self.lesion_mm2,
            "diameters_px": _listed(self.diameters_px),
            "diameters_mm": _listed(self.diameters_mm),
            "size": list(self.mask.shape),
            "seconds": self.seconds,
        }


def prediction_of_item(
    item: Mapping[str, Any], classes: Iterable[str], seconds: float
) -> Prediction:
    """Return the prediction that an item holds after ``prediction_postprocessing``.

    Args:
        item: with ``pred``, ``pred_seg``, and if there is a class head ``pred_cls`` and
            ``predicted_class``; without a mask head, ``image`` tells the size.
        classes: class names in the order of ``pred_cls``.
        seconds: to be told with the prediction.
    """
    has_mask = "pred" in item and "pred_seg" in item
    if has_mask:
        mask = _array(item["pred"]).astype(np.uint8)
        probability = _array(item["pred_seg"])[0].astype(np.float32)
    else:
        height, width = (int(side) for side in item["image"].meta["spatial_shape"][:2])
        mask = np.zeros((height, width), dtype=np.uint8)
        probability = np.zeros((height, width), dtype=np.float32)
    meta = getattr(item.get("image"), "meta", {})
    mask, probability = (_on_canvas(pixels, meta.get("canvas")) for pixels in (mask, probability))
    probabilities: dict[str, float] = {}
    if "pred_cls" in item:
        values = _array(item["pred_cls"]).astype(float)
        probabilities = {name: float(p) for name, p in zip(classes, values, strict=True)}
    lesion_pixels = int(mask.sum())
    return Prediction(
        mask=mask,
        probabilities=probabilities,
        predicted_class=item["predicted_class"] if probabilities else None,
        lesion_pixels=lesion_pixels,
        lesion_fraction=lesion_pixels / mask.size,
        box=lesion_box(mask),
        lesion_probability=probability,
        seconds=seconds,
        has_mask=has_mask,
        spacing_mm=_spacing(meta.get("spacing_mm")),
    )


class Predictor:
    """Predicts with the objects of a bundle's ``configs/inference.yaml``, and none of its own.

    Make one with ``Predictor.load``.

    Attributes:
        operating: the bundle's operating point; ``operating.classes`` are the class names.
        device: the device with the reason it was taken.
        precision: the arithmetic with the reason it was taken.
        flip_averaging: whether the mirror image is predicted too and averaged.
        operating_point: name of that in ``operating.json`` at which malignancy is decided, or
            ``None``.
        bundle: folder of the bundle or run.
        weights: path of its ``models/model.pt``.
    """

    def __init__(
        self,
        *,
        network: torch.nn.Module,
        operating: OperatingPoint,
        preprocessing: Callable[[Any], Any],
        postprocessing: Callable[[Any], Any],
        inferer: Callable[..., Any],
        device: DeviceChoice,
        precision: PrecisionChoice,
        flip_averaging: bool,
        operating_point: str | None,
        bundle: Path,
        weights: Path,
    ) -> None:
        self.network = network.to(device.name).eval()
        self.operating = operating
        self.device = device
        self.precision = precision
        self.flip_averaging = flip_averaging
        self.operating_point = operating_point
        self.bundle = bundle
        self.weights = weights
        self._preprocessing = preprocessing
        self._postprocessing = postprocessing
        self._inferer = inferer

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        device: str = "auto",
        precision: str = "fp32",
        *,
        flip_averaging: bool | None = None,
        operating_point: str | None = None,
        consistency: bool | None = None,
    ) -> Predictor:
        """Load a shipped bundle by name, or a bundle or run by its folder.

        Args:
            bundle: name or folder; by default the shipped bundle.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            precision: ``fp32``, ``bf16``, ``fp16`` (on a GPU) or ``auto``. Reduced precision moves
                probabilities by a few thousandths.
            flip_averaging: whether the mirror image is predicted too and averaged; by default as
                the bundle's ``operating.json`` says.
            operating_point: one of those that ``operating.json`` holds, such as
                ``sensitivity_95``, to decide malignancy at; by default the most probable class.
            consistency: whether mask and class are made to agree; by default as ``operating.json``
                says.

        Raises:
            InputError: if there is no such bundle, device or operating point, or its configuration
                lacks an id.
            WeightsError: if its weights are missing, refused, or of another architecture.
        """
        folder = find_bundle(DEFAULT_BUNDLE if bundle is None else bundle)
        chosen = choose_device(device)
        arithmetic = choose_precision(precision, chosen)
        parser = inference_config(folder, chosen.name, arithmetic.name)
        if flip_averaging is not None:
            parser["prediction_inferer#flip_averaging"] = flip_averaging
        for name, value in (("operating_point", operating_point), ("consistency", consistency)):
            if value is not None:
                _parsed(parser, name, folder)  # an older configuration would pass it over
                parser[name] = value
        network = _parsed(parser, "network_def", folder)
        weights = folder / "models" / "model.pt"
        load_weights(network, weights)
        return cls(
            network=network,
            operating=_parsed(parser, "operating", folder),
            preprocessing=_parsed(parser, "preprocessing", folder),
            postprocessing=_parsed(parser, "postprocessing", folder),
            inferer=_parsed(parser, "inferer", folder),
            device=chosen,
            precision=arithmetic,
            flip_averaging=_parsed(parser, "prediction_inferer", folder).averages_flips,
            operating_point=operating_point,
            bundle=folder,
            weights=weights,
        )

    def predict(self, source: Source) -> Prediction:
        """Predict for one picture.

        Args:
            source: path of a picture, its content in memory, one picture of a file that holds
                several, or its pixels (H, W) or (H, W, 3) as uint8 or floats in [0, 1].

        Raises:
            ImageReadError: if the picture cannot be read.
        """
        for _, prediction in self.predict_many([source]):
            if isinstance(prediction, Exception):
                raise prediction
            return prediction
        raise AssertionError("one picture gives one prediction")

    def predict_many(
        self, sources: Iterable[Source], *, batch_size: int = 1
    ) -> Iterator[tuple[Source, Prediction | ImageReadError]]:
        """Yield each source with its prediction, in order, going on past pictures that fail.

        Args:
            sources: paths or pixels, as for ``predict``.
            batch_size: pictures for one call of the network. One is as fast on a CPU.

        Yields:
            (source, prediction), or (source, error) for a picture that could not be read.

        Raises:
            InputError: if ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        batch: list[Source] = []
        for source in sources:
            batch.append(source)
            if len(batch) == batch_size:
                yield from self._predict_batch(batch)
                batch = []
        if batch:
            yield from self._predict_batch(batch)

    def identity(self) -> ModelIdentity:
        """Return what DICOM objects and answers tell of the model."""
        return ModelIdentity(self.bundle.name, file_sha256(self.weights))

    def provenance(self) -> dict[str, Any]:
        """Return what ``run.json`` tells of a prediction: bundle, weights, device, precision."""
        return {
            "bundle": str(self.bundle),
            "weights_sha256": file_sha256(self.weights),
            "device": {"name": self.device.name, "reason": self.device.reason},
            "precision": {"name": self.precision.name, "reason": self.precision.reason},
            "flip_averaging": self.flip_averaging,
            "operating_point": self.operating_point,
            "consistency": self.operating.consistency.as_record(),
            "classes": list(self.operating.classes),
            "temperature": self.operating.temperature,
            "class_thresholds": dict(self.operating.class_thresholds),
        }

    def _predict_batch(
        self, sources: list[Source]
    ) -> Iterator[tuple[Source, Prediction | ImageReadError]]:
        started = time.perf_counter()
        items = [self._read(source) for source in sources]
        readable = [item for item in items if not isinstance(item, Exception)]
        predicted = iter(self._infer(readable))
        done = [item if isinstance(item, Exception) else next(predicted) for item in items]
        seconds = (time.perf_counter() - started) / len(sources)
        for source, item in zip(sources, done, strict=True):
            if isinstance(item, ImageReadError):
                yield source, item
            else:
                yield source, prediction_of_item(item, self.operating.classes, seconds)

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
        images = torch.stack([_plain(item["image"]) for item in items]).to(self.device.name)
        with torch.no_grad():
            outputs = self._inferer(images, self.network)
        heads = {name: logits.float().cpu() for name, logits in outputs.items()}
        results = []
        for index, item in enumerate(items):
            head = {name: logits[index] for name, logits in heads.items()}
            results.append(dict(self._postprocessing({**item, **head})))
        return results


def inference_config(
    bundle: str | Path, device: str = "cpu", precision: str = "fp32"
) -> ConfigParser:
    """Return a bundle's ``configs/inference.yaml`` with its folder, device and precision set.

    A configuration can run code: never load one from a stranger.

    Raises:
        InputError: if the folder is no bundle or the file is not valid YAML.
    """
    folder = find_bundle(bundle)
    path = folder / "configs" / "inference.yaml"
    parser = ConfigParser()
    try:
        parser.read_config(str(path))
    except Exception as error:
        # PyYAML's and MONAI's errors have no base in common
        raise InputError(f"{path} is not a valid configuration: {error}") from error
    parser["bundle_root"] = str(folder)
    parser["device"] = torch.device(device)
    parser["precision"] = precision
    return parser


def _parsed(parser: ConfigParser, name: str, folder: Path) -> Any:
    try:
        return parser.get_parsed_content(name)
    except KeyError as error:
        raise InputError(
            f"{folder / 'configs' / 'inference.yaml'} lacks the id {name!r}: {error}"
        ) from error
    except RuntimeError as error:
        # MONAI wraps what a configured object raises
        cause = _cause(error, BusiMonaiError)
        if cause is not None:
            raise cause from error
        raise


def _read_error(error: Exception, source: Source) -> ImageReadError:
    cause = _cause(error, ImageReadError)
    if isinstance(cause, ImageReadError):
        return cause
    name = "the given pixels" if isinstance(source, np.ndarray) else str(source)
    inner = error.__cause__ or error
    logger.debug("reading %s failed", name, exc_info=error)
    return ImageReadError(f"{name}: cannot be read: {type(inner).__name__}: {inner}")


def _cause(error: BaseException | None, kind: type[BusiMonaiError]) -> BusiMonaiError | None:
    """Return the first error of a kind in a chain of causes."""
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _listed(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else list(values)


def _on_canvas(pixels: NDArray[Any], canvas: Any) -> NDArray[Any]:
    """Return (H, W) pixels of a part of a picture laid on the whole, which is 0 elsewhere."""
    if canvas is None:
        return pixels
    top, left, height, width = (int(value) for value in canvas)
    if pixels.shape == (height, width):
        return pixels
    whole = np.zeros((height, width), dtype=pixels.dtype)
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return whole


def _spacing(stated: Any) -> tuple[float, float] | None:
    if stated is None:
        return None
    rows, columns = (float(value) for value in stated)
    return (rows, columns) if rows > 0 and columns > 0 else None  # NaN is not


def _plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value)
