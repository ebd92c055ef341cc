"""``TorchEngine``: predicts with the network and the objects of a bundle's ``inference.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from busi_monai.bundle import Bundle
from busi_monai.devices import DeviceChoice, PrecisionChoice
from busi_monai.inference.inferers import PlainInferer, class_heat_map, single_networks
from busi_monai.inference.prediction import Prediction, prediction_of_item
from busi_monai.io.images import LoadedImage
from busi_monai.networks import load_weights
from busi_monai.networks.autocast import AutocastInferer
from busi_monai.settings import InferenceSettings
from busi_monai.threads import share_of_threads
from busi_monai.transforms.batches import plain

__all__ = ["TorchEngine"]


@dataclass(eq=False, kw_only=True)
class TorchEngine:
    """A network with the preprocessing, inferer and postprocessing that its bundle states.

    May be called by several threads at a time.

    Attributes:
        network: on the device, in evaluation mode.
        settings: as the bundle's configuration reads them.
        tta_flip: whether the mirror image is predicted too and averaged.
    """

    bundle: Bundle
    network: torch.nn.Module
    settings: InferenceSettings
    device: DeviceChoice
    precision: PrecisionChoice
    tta_flip: bool
    _preprocessing: Callable[[Any], Any]
    _postprocessing: Callable[[Any], Any]
    _inferer: Callable[..., Any]

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        device: DeviceChoice,
        precision: PrecisionChoice,
        *,
        tta_flip: bool | None = None,
        operating_point: str | None = None,
        consistency: bool | Mapping[str, Any] | None = None,
        network: torch.nn.Module | None = None,
    ) -> TorchEngine:
        """Load what ``Predictor.load`` asks for; with ``network`` that one, not the bundle's.

        Raises:
            InputError: if the configuration lacks an id.
            WeightsError: if the weights are missing, refused, or of another architecture.
        """
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
            bundle=bundle,
            network=network.to(device.name).eval(),
            settings=bundle.parsed(parser, "settings"),
            device=device,
            precision=precision,
            tta_flip=bundle.parsed(parser, "prediction_inferer").averages_flips,
            _preprocessing=bundle.parsed(parser, "preprocessing"),
            _postprocessing=bundle.parsed(parser, "postprocessing"),
            _inferer=bundle.parsed(parser, "inferer"),
        )

    def at(self, operating_point: str | None) -> TorchEngine:
        """Return an engine of the same network that decides at another operating point."""
        return TorchEngine.load(
            self.bundle,
            self.device,
            self.precision,
            tta_flip=self.tta_flip,
            operating_point=operating_point,
            consistency=asdict(self.settings.consistency),
            network=self.network,
        )

    @contextmanager
    def several(self) -> Iterator[int]:
        """Compute each batch with one thread; yield how many batches to predict at a time."""
        if self.device.type != "cpu":
            yield 2  # one is read while the other computes
            return
        own, threads = torch.get_num_threads(), share_of_threads()
        torch.set_num_threads(1)
        try:
            yield threads
        finally:
            torch.set_num_threads(own)

    def predict(self, images: Sequence[LoadedImage]) -> list[Prediction]:
        """Return the predictions of a batch of images."""
        items = [self._prepared(image) for image in images]
        batch = torch.stack([plain(item["image"]) for item in items]).to(self.device.name)
        with torch.no_grad():
            outputs = self._inferer(batch, self.network)
        return self._finished(items, outputs)

    def views(self, image: LoadedImage) -> list[Prediction]:
        """Return what each member of an ensemble makes of an image and of its mirror image."""
        item = self._prepared(image)
        batch = plain(item["image"])[None].to(self.device.name)
        once = AutocastInferer(self.precision.name, inner=PlainInferer())
        found = []
        for network in single_networks(self.network):
            for mirrored in (False, True):
                with torch.no_grad():
                    outputs = once(batch.flip(-1) if mirrored else batch, network)
                if mirrored and "seg" in outputs:
                    outputs["seg"] = outputs["seg"].flip(-1)
                found += self._finished([item], outputs)
        return found

    def heat_map(self, image: LoadedImage, class_index: int) -> NDArray[np.float32]:
        """Return ``class_heat_map`` at the image's own size: (H, W) float32 in [0, 1]."""
        item = self._prepared(image)
        batch = plain(item["image"])[None].to(self.device.name)
        places = class_heat_map(self.network, batch, class_index)
        # goes back to native size as the lesion's probability does
        logits = torch.logit(places, eps=1e-6)[None, None]
        (done,) = self._finished([item], {"seg": logits}, classes=())
        return done.lesion_probability

    def _prepared(self, image: LoadedImage) -> dict[str, Any]:
        return dict(self._preprocessing({"image": image}))

    def _finished(
        self,
        items: Sequence[dict[str, Any]],
        outputs: Mapping[str, torch.Tensor],
        classes: Sequence[str] | None = None,
    ) -> list[Prediction]:
        heads = {name: logits.float().cpu() for name, logits in outputs.items()}
        names = self.settings.classes if classes is None else classes
        found = []
        for index, item in enumerate(items):
            own = {name: logits[index] for name, logits in heads.items()}
            done = self._postprocessing({**item, **own})
            found.append(prediction_of_item(done, names, 0.0))
        return found
