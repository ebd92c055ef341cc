"""Two trained stages become one bundle, whose network finds the lesion and classifies its crop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import imports_of
from busi_monai.bundle.shipped import find_bundle
from busi_monai.bundle.training_images import (
    TRAINING_IMAGES,
    knows_training_images,
    read_training_images,
)
from busi_monai.bundle.writing import write_bundle
from busi_monai.curation.label_hashes import joined_label_hashes, write_label_hashes
from busi_monai.errors import InputError
from busi_monai.files import atomic_file, write_json
from busi_monai.networks import load_weights, network_cost
from busi_monai.networks.weights import read_weights, save_tensors
from busi_monai.records import RunRecord
from busi_monai.settings import InferenceSettings, LesionCrop

__all__ = ["TWO_STAGE_BUNDLE", "assemble_stages", "pipeline_settings"]

TWO_STAGE_BUNDLE = "breast_ultrasound_two_stage"

FROM_STAGES = ("classes", "aspect", "normalisation", "median_filter", "clahe", "lesion_crop")


def assemble_stages(
    segmentation: str | Path,
    classification: str | Path,
    out: str | Path,
    *,
    bundle: str | Path = TWO_STAGE_BUNDLE,
    pipeline: Mapping[str, Any] | None = None,
) -> None:
    """Write the bundle of two trained stages into a folder.

    ``run.json`` comes last: where it is, the bundle is whole.

    Args:
        segmentation: run of a network with a mask head.
        classification: run of a network with a class head, trained with ``lesion_crop``.
        out: the run's folder; files of the bundle in it are replaced.
        bundle: the staged bundle whose configurations are taken.
        pipeline: fields of the ``settings.json`` to write that differ from the bundle's and the
            stages' own.

    Raises:
        InputError: if a run lacks its head, its crop or its records, or the two were preprocessed
            differently or trained with different masks of an image.
        WeightsError: if weights are missing or damaged.
    """
    runs = {"segmentation": Path(segmentation), "classification": Path(classification)}
    root, out = find_bundle(bundle), Path(out)
    points = {name: Bundle(run).settings for name, run in runs.items()}
    crop = _checked_crop(runs, points)
    settings = _settings(root, points, pipeline or {})
    labels = joined_label_hashes(list(runs.values()))
    section = _network_section(root, runs, points, crop, settings.mask_threshold)
    configs = [Bundle(run).config("inference") for run in runs.values()]
    imports = [each for config in configs for each in imports_of(config)]
    network = _network(section, imports, out)
    state = {
        f"{part}.{name}": value
        for part, run in zip(("segmenter", "classifier"), runs.values(), strict=True)
        for name, value in read_weights(Bundle(run).weights).items()
    }
    assembled = Bundle(out)
    with atomic_file(assembled.weights) as partial:
        save_tensors(state, partial)
    load_weights(network, assembled.weights)
    write_label_hashes(out, labels)
    _write_training_images(out, runs)
    fold = Bundle(runs["classification"]).config("evaluate").get("fold")
    write_bundle(out, Bundle(root), section, settings, fold=fold, imports=imports)
    _write_record(assembled, runs, network_cost(network.eval(), settings.image_size))


def pipeline_settings(
    root: Path, pipeline: Mapping[str, Any], known: Mapping[str, Any] | None = None
) -> InferenceSettings:
    """Return a staged bundle's operating point with what is known of the stages, and changes.

    Raises:
        InputError: if a change is no field of ``settings.json``, or one that the stages decide.
    """
    shipped = Bundle(root).settings
    free = {field.name for field in fields(InferenceSettings)} - set(FROM_STAGES)
    for name in pipeline:
        if name not in free:
            raise InputError(
                f"unknown key 'pipeline::{name}'; expected one of {', '.join(sorted(free))}"
            )
    try:
        settings = replace(shipped, **{**(known or {}), **pipeline})
    except (TypeError, ValueError) as error:
        raise InputError(f"pipeline: {error}") from error
    if not 0 < settings.mask_threshold < 1:  # the network compares logits
        raise InputError(
            f"pipeline: mask_threshold must lie between 0 and 1, got {settings.mask_threshold}"
        )
    return settings


def _settings(
    root: Path, points: Mapping[str, InferenceSettings], pipeline: Mapping[str, Any]
) -> InferenceSettings:
    masks, classes = points["segmentation"], points["classification"]
    known = {
        "classes": classes.classes,
        "median_filter": masks.median_filter,
        "clahe": masks.clahe,
        "temperature": classes.temperature,
        "class_thresholds": classes.class_thresholds,
        "mask_threshold": masks.mask_threshold,
        "tta_flip": classes.tta_flip,
        "consistency": classes.consistency,
        "normalisation": "unit",  # the network does it, for each stage by itself
    }
    return pipeline_settings(root, pipeline, known)


def _checked_crop(runs: Mapping[str, Path], points: Mapping[str, InferenceSettings]) -> LesionCrop:
    """Return how the classifier's images were cropped, once the stages are known to fit."""
    masks, classes = points["segmentation"], points["classification"]
    if not classes.classes:
        raise InputError(f"{runs['classification']} has no class head to classify lesions with")
    if classes.lesion_crop is None:
        raise InputError(
            f"{runs['classification']} was trained on whole images; train it with lesion_crop, "
            "as configs/train_classification.yaml does"
        )
    for name in ("median_filter", "clahe"):
        if getattr(masks, name) != getattr(classes, name):
            raise InputError(
                f"{name} is {getattr(masks, name)} in {runs['segmentation']} and "
                f"{getattr(classes, name)} in {runs['classification']}: both stages work on one "
                "image, so set it alike"
            )
    for name, point in points.items():
        if point.aspect != "stretch":
            raise InputError(
                f"{runs[name]} was trained with aspect {point.aspect}; a two-stage network "
                "stretches: train both stages with aspect=stretch"
            )
    return classes.lesion_crop


def _network_section(
    root: Path,
    runs: Mapping[str, Path],
    points: Mapping[str, InferenceSettings],
    crop: LesionCrop,
    mask_threshold: float,
) -> dict[str, Any]:
    """Return ``network_def`` of the bundle with the networks and sizes of its stages."""
    inference = Bundle(root).config("inference")
    section: dict[str, Any] = copy.deepcopy(inference["network_def"])
    masks, classes = points["segmentation"], points["classification"]
    networks = {name: Bundle(run).config("inference") for name, run in runs.items()}
    if not networks["segmentation"]["network_def"].get("segmentation", True):
        raise InputError(f"{runs['segmentation']} has no mask head to find lesions with")
    return {
        **section,
        "segmenter": networks["segmentation"]["network_def"],
        "classifier": networks["classification"]["network_def"],
        "segmenter_size": list(masks.image_size),
        "crop_size": list(classes.image_size),
        "margin": crop.margin,
        "when_no_lesion": crop.when_no_lesion,
        "classes": list(classes.classes),
        "mask_threshold": mask_threshold,
        "segmenter_normalisation": masks.normalisation,
        "classifier_normalisation": classes.normalisation,
    }


def _network(section: Mapping[str, Any], imports: Sequence[str], out: Path) -> nn.Module:
    try:
        parser = ConfigParser({"imports": list(imports), "network_def": dict(section)})
        network: nn.Module = parser.get_parsed_content("network_def")
    except RuntimeError as error:
        raise InputError(f"{out}: the stages do not fit together: {error.__cause__}") from error
    return network


def _write_training_images(out: Path, runs: Mapping[str, Path]) -> None:
    known = [read_training_images(run) for run in runs.values()]
    hashes = [found for found in known if found is not None]
    if len(hashes) == len(known):  # half a list would call seen images new
        complete = all(knows_training_images(run) for run in runs.values())
        content = {"sha256": sorted(frozenset().union(*hashes))}
        write_json(out / TRAINING_IMAGES, content if complete else {**content, "complete": False})


def _write_record(bundle: Bundle, runs: Mapping[str, Path], cost: Mapping[str, Any]) -> None:
    stages = {name: Bundle(run).training_record or {} for name, run in runs.items()}
    last = stages["classification"]
    totals = {
        name: sum(stage.get(name, 0) for stage in stages.values())
        for name in ("epochs", "max_epochs", "seconds")
    }
    common: dict[str, Any] = {
        name: last[name] for name in ("seed", "best", "device", "precision") if name in last
    }
    details: dict[str, Any] = {
        **common,
        **totals,
        "network": dict(cost),
        "weights_sha256": bundle.weights_sha256,
        "stages": stages,
    }
    RunRecord().write(bundle.folder, details)
