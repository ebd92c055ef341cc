"""A trained run as a bundle's released weights: half the size, with what stands behind them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import imports_of
from busi_monai.bundle.training_images import TRAINING_IMAGES, read_training_images
from busi_monai.errors import InputError
from busi_monai.files import atomic_file, file_sha256, read_json, write_json, write_text
from busi_monai.networks.weights import read_weights, save_tensors
from busi_monai.records import split_of
from busi_monai.settings import InferenceSettings

__all__ = ["LARGEST", "configuration_sha256", "halved", "release_weights"]

LARGEST = 25_000_000
"""Bytes that released weights may take: they lie in the repository and in the wheel."""

_PATHS = (
    "dataset_dir", "extra_dataset_dir", "output_dir", "bundle_root", "cache_dir", "resume",
    "initial_run", "encoder_weights",
)  # fmt: skip


def release_weights(run: str | Path, bundle: str | Path) -> dict[str, Any]:
    """Make a run's weights those that a bundle ships.

    The bundle's own ``configs/inference.yaml`` stays; ``models/model.pt``, ``settings.json``,
    ``training_images.json`` and ``run.json`` (what the weights were made from and by) are replaced.

    Args:
        run: a finished training, calibrated on images that it was not trained on.
        bundle: the bundle's folder, configured for the network that was trained.

    Returns:
        The content of the bundle's ``run.json``: ``command, commit, seed, epochs, best, seconds,
        versions, datalist_sha256, …`` of the training, ``configuration_sha256``,
        ``trained_weights_sha256`` and ``weights_sha256``, those of the run and as released.

    Raises:
        InputError: if the run is not finished, is not calibrated on its own split validation or by
            a cross-validation, does not tell what it was trained on, has another network or input
            than the bundle, or its weights are too large.
        WeightsError: if its weights are missing or refused.
    """
    run, bundle = Path(run), Path(bundle)
    weights = Bundle(run).weights
    released = Bundle(bundle).weights
    content = _record(run, weights)
    settings = Bundle(run).settings
    _check_calibrated(run, settings)
    if read_training_images(run) is None:
        raise InputError(f"{run} does not tell what it was trained on: no {TRAINING_IMAGES}")
    _check_same_network(run, bundle, settings)
    images = (run / TRAINING_IMAGES).read_text("utf-8")
    state = halved(read_weights(weights))
    with atomic_file(released) as partial:
        save_tensors(state, partial)
        size = partial.stat().st_size
        if size > LARGEST:
            raise InputError(
                f"{weights} takes {size / 1e6:.1f} MB in half precision; released weights may take "
                f"{LARGEST / 1e6:.0f} MB"
            )
    settings.save(bundle)
    write_text(bundle / TRAINING_IMAGES, images)
    content["weights_sha256"] = file_sha256(released)
    write_json(Bundle(bundle).record_file, content)
    return content


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with its matrices and kernels in half precision.

    Vectors (biases, normalisation and its running statistics) stay as they are: they take little
    room, and variances may be smaller than half precision knows.

    Examples:
        >>> import torch
        >>> state = {"weight": torch.ones(2, 2), "bias": torch.ones(2), "seen": torch.tensor(3)}
        >>> [value.dtype for value in halved(state).values()]
        [torch.float16, torch.float32, torch.int64]
    """
    return {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value
        for name, value in state.items()
    }


def configuration_sha256(training: Mapping[str, Any]) -> str:
    """Return the hash of a training configuration without its paths.

    Args:
        training: content of a run's ``configs/train.yaml``.

    Examples:
        >>> here, there = {"seed": 0, "output_dir": "a"}, {"output_dir": "b", "seed": 0}
        >>> configuration_sha256(here) == configuration_sha256(there)
        True
    """
    kept = {name: value for name, value in training.items() if name not in _PATHS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _record(run: Path, weights: Path) -> dict[str, Any]:
    """Return what is told of a training, names in place of paths."""
    record = Bundle(run).training_record
    if record is None:
        raise InputError(f"{run} has no run.json: it is no run, or its training has not ended")
    known = read_json(Bundle(run).record_file)
    trained = file_sha256(weights) if weights.is_file() else None
    if known.get("weights_sha256") != trained:
        raise InputError(
            f"{weights} is not what {run / 'run.json'} tells of: resumed and not ended, or changed"
        )
    if "initial_run" in record:
        record["initial_run"] = {
            **record["initial_run"],
            "run": _name(record["initial_run"]["run"]),
        }
    return {
        **record,
        "command": [_name(word) for word in record["command"]],
        "versions": known.get("versions"),
        "configuration_sha256": configuration_sha256(Bundle(run).config("train")),
        "trained_weights_sha256": trained,
    }


def _name(word: str) -> str:
    """Return the last part of an absolute path, also behind ``KEY=``; other words as they are.

    Examples:
        >>> _name("/home/someone/busi"), _name("initial_run=C:/runs/first"), _name("--seed")
        ('busi', 'initial_run=first', '--seed')
    """
    key, sign, value = word.rpartition("=")
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute():
        return key + sign + PureWindowsPath(value).name  # takes both kinds of slashes
    return word


def _check_calibrated(run: Path, settings: InferenceSettings) -> None:
    told = settings.calibration
    if not told:
        raise InputError(
            f"{run} is not calibrated; first: busi-monai calibrate {run} PREDICTIONS, of images "
            "that it was not trained on"
        )
    own = bool(told.get("same_network"))
    if not told.get("out_of_fold") and not (own and split_of(told) == "validation"):
        raise InputError(
            f"{run} was calibrated on {'its' if own else 'other'} predictions of the split "
            f"{split_of(told)}; expected its own on the split validation, or those of a "
            "cross-validation"
        )


def _check_same_network(run: Path, bundle: Path, settings: InferenceSettings) -> None:
    metadata = Bundle(bundle).metadata_file
    size = read_json(metadata)["network_data_format"]["inputs"]["image"]["spatial_shape"]
    if size != list(settings.image_size):
        raise InputError(
            f"{metadata} states an input of {size}, {run} takes {list(settings.image_size)}"
        )
    for name in ("inference", "evaluate"):
        configs = [Bundle(each).config(name) for each in (run, bundle)]
        missing = [each for each in imports_of(configs[0]) if each not in imports_of(configs[1])]
        if missing:
            raise InputError(
                f"{Bundle(bundle).config_file(name)} does not import what {run} needs: add "
                f"{', '.join(missing)} to its imports"
            )
        trained, shipped = (config["network_def"] for config in configs)
        differing = [
            f"{key} is {trained.get(key)!r} in the run, {shipped.get(key)!r} in the bundle"
            for key in {**trained, **shipped}
            if trained.get(key) != shipped.get(key)
        ]
        if differing:
            raise InputError(
                f"{Bundle(bundle).config_file(name)} describes another network than {run} trained: "
                f"{'; '.join(differing)}"
            )
