"""Several runs made into one bundle that predicts with all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import imports_of
from busi_monai.bundle.model_card import ensemble_sections
from busi_monai.bundle.shipped import find_bundle
from busi_monai.bundle.training_images import (
    TRAINING_IMAGES,
    knows_training_images,
    read_training_images,
)
from busi_monai.bundle.writing import write_bundle
from busi_monai.curation.label_hashes import joined_label_hashes, write_label_hashes
from busi_monai.datasets import natural_key
from busi_monai.errors import InputError
from busi_monai.files import atomic_file, write_json
from busi_monai.networks import EnsembleNetwork, load_weights, network_cost
from busi_monai.networks.weights import read_weights, save_tensors
from busi_monai.outputs import output_folder
from busi_monai.records import RunRecord
from busi_monai.settings import InferenceSettings

__all__ = ["refuse_seen_images", "write_ensemble"]

logger = logging.getLogger(__name__)

EACH_ITS_OWN = (
    "temperature", "mask_threshold", "class_thresholds", "operating_points", "calibration"
)  # fmt: skip
SAME_SECTIONS = ("preprocessing", "postprocessing", "prediction_inferer", "inferer")
REFUSAL = (
    "$busi_monai.inference.refuse_seen_images(@bundle_root, @data) if @split != 'train' else None"
)


def write_ensemble(runs: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a bundle whose network is the ensemble of several runs'.

    Args:
        runs: two or more runs or bundles with weights, of the same heads, classes and
            preprocessing; their networks may differ.
        out: the bundle's folder to make: ``configs/{inference,evaluate}.yaml``,
            ``configs/metadata.json``, ``models/model.pt``, ``settings.json``, ``run.json``, and
            ``training_images.json`` and ``label_hashes.json``, the images and masks that any of the
            members was trained on.
        overwrite: replace an earlier ensemble.

    Returns:
        The folder.

    Raises:
        InputError: if there are fewer than two runs, one stands twice, they are used differently,
            or were trained with different masks of an image; the message names the difference.
        WeightsError: if the weights of one are missing or do not fit.
    """
    record = RunRecord()
    folders = [find_bundle(run) for run in runs]
    if len(folders) < 2:
        raise InputError(f"an ensemble needs at least two runs, got {len(folders)}")
    repeated = sorted({folder for folder in folders if folders.count(folder) > 1}, key=natural_key)
    if repeated:
        raise InputError(f"{', '.join(map(str, repeated))} stands in the ensemble more than once")
    members = [Bundle(folder) for folder in folders]
    labels = joined_label_hashes(folders)
    settings = _common_settings(members)
    _check_sections(members)
    temperatures = [member.settings.temperature for member in members]
    networks = [member.network() for member in members]
    heads = _common_heads(members, networks, settings.image_size)
    ensemble = EnsembleNetwork(networks, temperatures)
    definition = {
        "_target_": "busi_monai.networks.EnsembleNetwork",
        "members": [member.network_definition() for member in members],
        "temperatures": temperatures,
    }
    with output_folder(out, "ensemble", reads=folders, overwrite=overwrite) as partial:
        folds = {member.config("evaluate").get("fold") for member in members}
        trained = _training_details(members)
        written = write_bundle(
            partial,
            members[0],
            definition,
            settings,
            segmentation="seg" in heads,
            fold=folds.pop() if len(folds) == 1 else None,
            card=ensemble_sections(trained["members"]),
            description=f"Ensemble of {len(folders)} networks, whose logits are averaged.",
            first_steps=[REFUSAL],
            imports=[each for member in members for each in imports_of(member.config("inference"))],
        )
        _write_training_images(partial, folders)
        without_ids = [{k: v for k, v in item.items() if k != "id"} for item in labels]
        write_label_hashes(partial, without_ids)
        joined = {
            f"members.{index}.{name}": value
            for index, member in enumerate(members)
            for name, value in read_weights(member.weights).items()
        }
        with atomic_file(written.weights) as unfinished:
            save_tensors(joined, unfinished)
        load_weights(ensemble, written.weights)
        cost = network_cost(ensemble, settings.image_size)
        details = {"weights_sha256": written.weights_sha256, "network": cost}
        record.write(partial, {**trained, **details})
    logger.info("wrote an ensemble of %d networks to %s", len(folders), out)
    return Path(out).absolute()


def refuse_seen_images(bundle: str | Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Refuse items, with ``sha256`` as in a datalist, that a member of an ensemble was trained on.

    Raises:
        InputError: naming the first of them.
    """
    known = read_training_images(bundle)
    items = list(items)
    seen = [str(item["id"]) for item in items if known and item.get("sha256") in known]
    if seen:
        more = f" and {len(seen) - 5} more" if len(seen) > 5 else ""
        raise InputError(
            f"{len(seen)} of {len(items)} images were trained on by a member of the ensemble: "
            f"{', '.join(seen[:5])}{more}. It would remember them. Measure it on images that no "
            "member has seen, the members by cross-validation, or its fit with --split train"
        )


def _common_settings(members: Sequence[Bundle]) -> InferenceSettings:
    """Return the ensemble's settings, thresholds averaged; refuse members used differently."""
    points = [member.settings for member in members]
    first = asdict(points[0])
    for member, point in zip(members[1:], points[1:], strict=True):
        for name, value in asdict(point).items():
            if name not in EACH_ITS_OWN and value != first[name]:
                raise InputError(
                    f"the members are used differently: {name} is {first[name]} in "
                    f"{members[0].folder}, {value} in {member.folder}; an ensemble needs the same "
                    "preprocessing of all"
                )
        if set(point.class_thresholds) != set(points[0].class_thresholds):
            raise InputError(
                f"the members have thresholds for different classes: {members[0].folder} for "
                f"{sorted(points[0].class_thresholds)}, {member.folder} for "
                f"{sorted(point.class_thresholds)}"
            )
    return replace(
        points[0],
        temperature=1.0,  # each member's logits are divided by its own
        operating_points={},  # those of a member are not the ensemble's
        calibration={},
        mask_threshold=mean(point.mask_threshold for point in points),
        class_thresholds={
            name: mean(point.class_thresholds[name] for point in points)
            for name in points[0].class_thresholds
        },
    )


def _check_sections(members: Sequence[Bundle]) -> None:
    """Refuse members that are preprocessed, called or postprocessed by other objects."""
    first, *others = (member.config("inference") for member in members)
    for member, config in zip(members[1:], others, strict=True):
        for name in SAME_SECTIONS:
            if _named_as_today(config.get(name)) != _named_as_today(first.get(name)):
                raise InputError(
                    f"{name} in configs/inference.yaml is another in {member.folder} than in "
                    f"{members[0].folder}; an ensemble needs the same of all"
                )


def _named_as_today(section: Any) -> str:
    """Return a section with the inferer's name of runs of version 0.1.0 brought up to date."""
    return str(section).replace(
        "busi_monai.training.AutocastInferer", "busi_monai.networks.autocast.AutocastInferer"
    )


@torch.no_grad()
def _common_heads(
    members: Sequence[Bundle], networks: Sequence[nn.Module], size: tuple[int, int]
) -> tuple[str, ...]:
    first, *others = (tuple(network(torch.zeros(1, 1, *size))) for network in networks)
    for member, heads in zip(members[1:], others, strict=True):
        if heads != first:
            raise InputError(
                f"the members have different heads: {members[0].folder} {', '.join(first)}, "
                f"{member.folder} {', '.join(heads)}"
            )
    return first


def _write_training_images(out: Path, folders: Sequence[Path]) -> None:
    seen = frozenset().union(*(read_training_images(folder) or () for folder in folders))
    unknown = [folder for folder in folders if not knows_training_images(folder)]
    for folder in unknown:
        logger.warning(
            "%s does not tell all images that it was trained on: the ensemble cannot refuse the "
            "others",
            folder,
        )
    known = {"complete": False} if unknown else {}
    write_json(out / TRAINING_IMAGES, {"sha256": sorted(seen), **known})


def _training_details(members: Sequence[Bundle]) -> dict[str, Any]:
    """Return the members' training records, their time summed and their epochs averaged."""
    records = [member.training_record or {} for member in members]
    seconds = [record["seconds"] for record in records if record.get("seconds")]
    epochs = [record["epochs"] for record in records if record.get("epochs")]
    seeds = {record.get("seed") for record in records}
    return {
        "members": [
            {"name": each.name, "weights_sha256": each.weights_sha256, "training": record}
            for each, record in zip(members, records, strict=True)
        ],
        "seed": seeds.pop() if len(seeds) == 1 else None,
        "seconds": round(sum(seconds), 3) if len(seconds) == len(records) else None,
        "epochs": round(mean(epochs)) if epochs else None,
    }
