"""``Bundle``: a folder of configurations, weights and records. Every training run is one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busi_monai.bundle.configurations import check_imports, read_configuration
from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.errors import BusiMonaiError, InputError, first_cause
from busi_monai.files import file_sha256, read_json
from busi_monai.settings import InferenceSettings, load_settings

if TYPE_CHECKING:
    from monai.bundle import ConfigParser
    from torch import nn

__all__ = ["RECORDED", "Bundle"]

RECORDED = (
    "command", "commit", "seed", "epochs", "max_epochs", "best", "seconds", "device", "precision",
    "network", "datalist_sha256", "labels_sha256", "extra_datalist_sha256", "extra_labels_sha256",
    "initial_run", "encoder_weights",
)  # fmt: skip
"""What an evaluation, an ensemble and a release keep of ``Bundle.record``."""


PREDICTION_SECTIONS = (
    "network_def", "preprocessing", "postprocessing", "prediction_inferer", "inferer",
)  # fmt: skip
"""Of ``configs/inference.yaml``: all that a prediction depends on besides weights and settings."""


class Bundle:
    """A bundle, whether shipped, released, trained, or made of others.

    Nothing is read before it is asked for, and nothing is kept: a run may be going on.

    Args:
        folder: the bundle's folder, which need not be there yet.

    Examples:
        >>> bundle = Bundle.open()
        >>> bundle.name, bundle.settings.classes
        ('breast_ultrasound_segmentation_classification', ('normal', 'benign', 'malignant'))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    @classmethod
    def open(cls, name_or_folder: str | Path = DEFAULT_BUNDLE) -> Bundle:
        """Return a shipped bundle by name, or a bundle or run by its folder.

        Raises:
            InputError: if it is neither.
        """
        return cls(find_bundle(name_or_folder))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def configs(self) -> Path:
        """The folder of configurations."""
        return self.folder / "configs"

    def config_file(self, name: str) -> Path:
        """Return the path of a configuration: ``train``, ``evaluate``, ``inference``, …."""
        return self.configs / f"{name}.yaml"

    def config_files(self, name: str) -> list[Path]:
        """Return the files that make up a configuration, each laid over those before it.

        A shipped bundle's ``evaluate.yaml`` lies over ``inference.yaml``; a run's is complete.
        """
        own = self.config_file(name)
        if name == "evaluate" and "network_def" not in read_configuration(own):
            return [self.config_file("inference"), own]
        return [own]

    def config(self, name: str) -> dict[str, Any]:
        """Return a complete configuration, references and expressions left as they are.

        Raises:
            InputError: if it is missing, or no YAML mapping.
        """
        layers = [read_configuration(path) for path in self.config_files(name)]
        if len(layers) == 1:
            return layers[0]
        from busi_monai.bundle.workflow import laid_configuration

        return laid_configuration(layers)

    @property
    def metadata_file(self) -> Path:
        """MONAI's ``metadata.json``."""
        return self.configs / "metadata.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / "docs" / "README.md"

    @property
    def weights(self) -> Path:
        """The trained weights, a state dict: ``models/model.pt``."""
        return self.folder / "models" / "model.pt"

    @property
    def graph(self) -> Path:
        """The exported graph, by which is predicted without torch: ``models/model.onnx``."""
        return self.folder / "models" / "model.onnx"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training goes on from: ``models/last.pt``."""
        return self.folder / "models" / "last.pt"

    @property
    def history(self) -> Path:
        """The table of a training's epochs."""
        return self.folder / "history.csv"

    @property
    def record_file(self) -> Path:
        """What a training, or whatever made the bundle, wrote at its end: ``run.json``."""
        return self.folder / "run.json"

    @property
    def record(self) -> dict[str, Any] | None:
        """The content of ``run.json``; ``None`` where there is none, as while a run goes on."""
        return dict(read_json(self.record_file)) if self.record_file.is_file() else None

    @property
    def training_record(self) -> dict[str, Any] | None:
        """Those of ``RECORDED`` that are known of how the weights were trained."""
        record = self.record
        return None if record is None else {key: record[key] for key in RECORDED if key in record}

    @property
    def settings(self) -> InferenceSettings:
        """How the network is to be used.

        Raises:
            InputError: if ``settings.json`` is missing or holds a wrong value.
        """
        return load_settings(self.folder)

    @property
    def weights_sha256(self) -> str:
        """The hash of the weights."""
        return file_sha256(self.weights)

    @property
    def prediction_sha256(self) -> str:
        """The hash of what ``configs/inference.yaml`` says of network, pre- and postprocessing.

        Raises:
            InputError: if it is missing, or no YAML mapping.
        """
        config = self.config("inference")
        sections = {name: config.get(name) for name in PREDICTION_SECTIONS}
        return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()

    def inference(self, device: str = "cpu", precision: str = "fp32") -> ConfigParser:
        """Return ``configs/inference.yaml`` with its folder, device and precision set.

        A configuration can run code: never load one that you do not trust.

        Raises:
            InputError: if it is missing, or no YAML mapping, or imports what is not found.
        """
        import torch
        from monai.bundle import ConfigParser

        check_imports(self.config_files("inference"))
        parser = ConfigParser(self.config("inference"))
        parser["bundle_root"] = str(self.folder)
        parser["device"] = torch.device(device)
        parser["precision"] = precision
        return parser

    def parsed(self, parser: ConfigParser, name: str) -> Any:
        """Return an object that ``inference`` describes; its error comes out as one of ours.

        Raises:
            InputError: if there is none of that name, or it cannot be made.
        """
        file = self.config_file("inference")
        try:
            return parser.get_parsed_content(name)
        except KeyError as error:
            raise InputError(f"{file} lacks the id {name!r}: {error}") from error
        except (RuntimeError, ImportError) as error:
            if ours := first_cause(error, BusiMonaiError):
                raise ours from error
            if cause := first_cause(error, ValueError, ImportError):
                raise InputError(f"{file} does not work: {cause}") from error
            raise

    def network_definition(self) -> dict[str, Any]:
        """Return ``network_def`` of ``configs/inference.yaml`` as plain values, resolved."""
        parser = self.inference()
        definition = parser.get_parsed_content("network_def", instantiate=False)
        plain: dict[str, Any] = _plain(definition)
        return plain

    def network(self) -> nn.Module:
        """Return the network with its weights, for inference.

        Raises:
            WeightsError: if the weights are missing, refused, or of another architecture.
        """
        from busi_monai.networks import load_weights

        network: nn.Module = self.parsed(self.inference(), "network_def")
        load_weights(network, self.weights)
        return network.eval()


def _plain(config: Any) -> Any:
    """Return a resolved section as plain values; MONAI keeps networks within it as objects."""
    from monai.bundle import ConfigItem

    if isinstance(config, ConfigItem):
        return _plain(config.get_config())
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items()}
    return [_plain(value) for value in config] if isinstance(config, (list, tuple)) else config
