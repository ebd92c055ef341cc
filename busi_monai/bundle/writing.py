"""The one writer of bundles: of trained runs, of both stages' runs, and of ensembles."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_monai.bundle.bundle import Bundle
from busi_monai.bundle.configurations import imports_of, write_configuration
from busi_monai.bundle.model_card import replaced_sections
from busi_monai.files import read_json, write_json, write_text
from busi_monai.settings import InferenceSettings

__all__ = ["write_bundle"]

_COPIED = ("LICENSE", "docs", "configs/logging.conf", "configs/mlflow.yaml")


def write_bundle(
    out: str | Path,
    base: Bundle,
    network: Mapping[str, Any],
    settings: InferenceSettings,
    *,
    segmentation: bool = True,
    fold: int | None = None,
    card: Mapping[str, str] | None = None,
    description: str = "",
    first_steps: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Bundle:
    """Write all of a bundle but its weights, and what is recorded of them, into a folder.

    Args:
        out: the folder; what is there of a bundle is replaced.
        base: the bundle whose configurations, metadata and documents are taken over.
        network: the section ``network_def``, as plain values.
        settings: how the network is to be used.
        segmentation: whether it has a mask head.
        fold: the reported fold, for ``evaluate.yaml``.
        card: new text of the model card by heading.
        description: stands before the base's own in the metadata.
        first_steps: expressions that ``evaluate.yaml`` evaluates before all others.
        imports: statements without which the network cannot be built, beside the base's own.

    Returns:
        What was written.
    """
    bundle = Bundle(out)
    for name in _COPIED:
        _copy(base.folder / name, bundle.folder / name)
    for name in ("evaluate", "inference"):
        if not base.config_file(name).is_file():
            continue
        config = base.config(name)
        config["imports"] = [*dict.fromkeys([*imports_of(config), *imports])]
        config["network_def"] = dict(network)
        if not segmentation:
            config.pop("network_def_seg", None)
        if "fold" in config:
            config["fold"] = fold
        if name == "evaluate":
            others = [step for step in config["initialize"] if step not in first_steps]
            config["initialize"] = [*first_steps, *others]
        write_configuration(bundle.config_file(name), config)
    metadata = _metadata(read_json(base.metadata_file), settings, segmentation)
    metadata["description"] = f"{description} {metadata.get('description', '')}".strip()
    write_json(bundle.metadata_file, metadata)
    if card and bundle.card.is_file():
        write_text(bundle.card, replaced_sections(bundle.card.read_text("utf-8"), card))
    settings.save(bundle.folder)
    return bundle


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, if it is there."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _metadata(
    metadata: dict[str, Any], settings: InferenceSettings, segmentation: bool
) -> dict[str, Any]:
    """Return the metadata with the run's own input size, heads and classes, and no figures."""
    metadata["eval_metrics"] = {}
    data_format = metadata["network_data_format"]
    image = data_format["inputs"]["image"]
    image["spatial_shape"] = list(settings.image_size)
    if settings.normalisation != "unit":
        image["value_range"] = []  # MONAI's form of an unknown range
    mask, classes = data_format["outputs"]["pred"], data_format["outputs"]["pred_cls"]
    mask["spatial_shape"] = list(settings.image_size)
    classes["num_channels"] = len(settings.classes)
    classes["channel_def"] = {str(index): name for index, name in enumerate(settings.classes)}
    heads = ([mask] if segmentation else []) + ([classes] if settings.classes else [])
    data_format["outputs"] = dict(zip(("pred", "pred_cls"), heads, strict=False))
    metadata["pred_classes"] = list(settings.classes)
    metadata["label_classes"] = _label_classes(settings.classes, segmentation)
    return metadata


def _label_classes(classes: Sequence[str], segmentation: bool) -> str:
    mask = "one channel: 0 is background, 1 is lesion" if segmentation else ""
    names = ", ".join(f"{index} {name}" for index, name in enumerate(classes))
    return "; ".join(part for part in (mask, f"class {names}" if names else "") if part)
