"""From prepared folders to the items, sampler and transforms that a training run uses."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset, PersistentDataset, pickle_hashing
from monai.transforms import Compose

from busi_monai.bundle.training_images import refuse_held_out_images
from busi_monai.cases import CLASSES, ordered_subset
from busi_monai.curation import Datalist, load_datalist, load_split
from busi_monai.curation.datalist import items_of_split
from busi_monai.curation.label_hashes import label_hashes, note_without_label_hashes
from busi_monai.errors import InputError
from busi_monai.files import file_sha256
from busi_monai.training.distributed import is_first_process
from busi_monai.transforms import (
    CropToLesiond,
    KeepNativeLabeld,
    RandomCropToLesiond,
    TrainingTensorsd,
)

__all__ = [
    "DatalistHashes",
    "cached_dataset",
    "class_weights",
    "datalist_hashes",
    "datalist_provenance",
    "load_items",
    "training_items",
    "training_transforms",
]

logger = logging.getLogger(__name__)


def load_items(
    dataset_dir: str | Path | Sequence[str | Path],
    split: str,
    *,
    fold: int | None = None,
    classes: Sequence[str] = CLASSES,
) -> list[dict[str, Any]]:
    """Return a split's items with ``class_label`` counted in the classes of a system.

    Args:
        dataset_dir: one or several prepared folders.
        split: ``train``, ``validation``, ``test`` or ``reported``.
        fold: which fold is the reported one, where the datalist has folds.
        classes: the system's classes. Cases of another class are left out.

    Raises:
        InputError: if nothing is left.
    """
    items = load_split([str(folder) for folder in _folders(dataset_dir)], split, fold=fold)
    return _of_classes(items, classes, f"the split {split} of {dataset_dir}")


def training_items(
    dataset_dir: str | Path | Sequence[str | Path],
    *,
    extra: str | Path | Sequence[str | Path] | None = None,
    fold: int | None = None,
    classes: Sequence[str] = CLASSES,
) -> list[dict[str, Any]]:
    """Return the items of the split ``train``, and those of further datasets that only train.

    A class of which there is no item is warned about.

    Args:
        dataset_dir: one or several prepared folders, which validation and figures come from.
        extra: further ones. Of each its own split ``train`` is taken: with folds, what the same
            ``fold`` leaves for training, also where it has no such fold; without, its training
            list.
        fold: the reported fold, where the datalists have folds.
        classes: the system's classes, as for ``load_items``.

    Raises:
        InputError: if nothing is left of a dataset, an extra one has folds and none is reported,
            or an extra image has the pixels of one that is validated or reported on.
    """
    folders, added = _folders(dataset_dir), _folders(extra)
    for folder in added:
        datalist = load_datalist(folder)
        if datalist.folds and fold is None:
            raise InputError(
                f"the extra dataset {folder} has {datalist.folds} folds, and no fold is reported "
                "here: prepare it without folds, or train on a dataset with folds"
            )
        left = fold if datalist.folds else None
        items = items_of_split(datalist, "train", fold=left, where=folder, alone=False)
        own = _of_classes(items, classes, f"the split train of {folder}")
        refuse_held_out_images(
            {item["sha256"] for item in own},
            folders,
            fold=fold,
            whose=f"the training images of the extra dataset {folder}",
        )
    trained = load_items([*folders, *added], "train", fold=fold, classes=classes)
    if classes:
        _warn_of_absent_classes(trained, ordered_subset(classes))
    return trained


def class_weights(items: Sequence[dict[str, Any]], n_classes: int) -> list[float]:
    """Return loss weights inverse to the classes' frequencies, with mean 1 over the items.

    Examples:
        >>> class_weights([{"class_label": 0}] * 3 + [{"class_label": 1}], 2)
        [0.6666666666666666, 2.0]
    """
    counts = Counter(item["class_label"] for item in items)
    present = len(counts)
    return [
        len(items) / (present * counts[label]) if counts[label] else 0.0
        for label in range(n_classes)
    ]


def training_transforms(preprocessing: Compose, augmentation: Compose) -> Compose:
    """Chain both flat, so that ``CacheDataset`` caches all that is not random.

    A random lesion crop goes before the resize. What the widest one can reach is cropped before
    it, and so cached: a whole dataset at native size would not fit many memories.
    """
    steps, varied = list(preprocessing.flatten().transforms), augmentation.flatten().transforms
    if not varied or not isinstance(varied[0], RandomCropToLesiond):
        return Compose([*steps, *varied])
    crop, *rest = varied
    place = next(index for index, step in enumerate(steps) if isinstance(step, CropToLesiond))
    before = [step for step in steps[:place] if not isinstance(step, KeepNativeLabeld)]
    reach = CropToLesiond(crop.keys, crop.widest_margin)
    return Compose([*before, reach, crop, *steps[place + 1 :], *rest], log_stats=False)


def cached_dataset(
    items: Sequence[dict[str, Any]], transform: Compose, cache_dir: str | Path | None = None
) -> Dataset:
    """Return a dataset that preprocesses every item once.

    Args:
        items: what ``load_items`` gives.
        transform: the whole transform; what comes before its first random part is cached.
        cache_dir: keep the preprocessed items on disk there (``PersistentDataset``), for datasets
            larger than memory; ``None`` keeps them in memory (``CacheDataset``). An item whose
            hashes or files have changed since is made anew.
    """
    if cache_dir is not None:
        # going back to native size needs the images' history; training drops it before the cache,
        # and then a cached item would come back of another type than a fresh one
        plain = any(isinstance(step, TrainingTensorsd) for step in transform.flatten().transforms)
        return PersistentDataset(
            items,
            transform,
            cache_dir=cache_dir,
            hash_func=_cache_key,
            track_meta=not plain,
            hash_transform=pickle_hashing,  # other options are other files
        )
    progress = sys.stderr.isatty() and is_first_process()
    return CacheDataset(items, transform, progress=progress, copy_cache=False, num_workers=2)


@dataclass(frozen=True)
class DatalistHashes:
    """What a training rests on: hashes of its datalists and of all their masks, and of each mask.

    ``by_name`` is as ``run.json`` keeps them, one for each datalist; ``labels`` as
    ``label_hashes.json``.
    """

    by_name: dict[str, list[str | None]] = field(default_factory=dict)
    labels: list[dict[str, Any]] = field(default_factory=list)


def datalist_hashes(
    dataset_dir: str | Path | Sequence[str | Path],
    extra: str | Path | Sequence[str | Path] | None = None,
) -> DatalistHashes:
    """Return the datalists' hashes for a training's record, those of extra datasets apart."""
    found = DatalistHashes()
    for prefix, folders in (("", dataset_dir), ("extra_", extra)):
        datalists = [_noted_datalist(folder) for folder in _folders(folders)]
        if datalists:
            found.by_name[f"{prefix}datalist_sha256"] = [each.sha256 for each in datalists]
            found.by_name[f"{prefix}labels_sha256"] = [each.labels_sha256 for each in datalists]
        found.labels.extend(item for each in datalists for item in label_hashes(each.records()))
    return found


def _noted_datalist(folder: str | Path) -> Datalist:
    """Return a datalist; one without the hashes of its masks is noted once."""
    datalist = load_datalist(folder)
    if datalist.labels_sha256 is None:
        note_without_label_hashes(str(folder))
    return datalist


def datalist_provenance(
    dataset_dir: str | Path | Sequence[str | Path],
    split: str = "",
    *,
    fold: int | None,
    part: str = "",
) -> dict[str, Any]:
    """Return what a figure must be stated with: protocols, hashes of datalists and masks, leaks.

    ``leaks`` is ``{"count", "evaluation_images"}`` of that split, over all datasets: how many of
    its images have a near-duplicate among the training images of the same dataset. ``None`` for the
    split train, and for the validation of a dataset with folds, which keeps groups whole.
    ``part`` is what configurations of version 0.1.0 call the split.
    """
    datalists = [_noted_datalist(folder) for folder in _folders(dataset_dir)]
    return {
        "protocol": [datalist.protocol for datalist in datalists],
        "datalist_sha256": [datalist.sha256 for datalist in datalists],
        "labels_sha256": [datalist.labels_sha256 for datalist in datalists],
        "split": split or part,
        "fold": fold,
        "leaks": _split_leaks(datalists, split or part, fold),
    }


def _cache_key(item: Mapping[str, Any]) -> bytes:
    """Return the name of a cached item: what its files hold counts, not where they lie alone.

    A mask's file is small and read; an image's is told by its size and time.
    """
    image, label = Path(item["image"]).stat(), item.get("label")
    files = (image.st_size, image.st_mtime_ns, None if label is None else file_sha256(label))
    return pickle_hashing({**item, "files": files})


def _of_classes(
    items: Sequence[Mapping[str, Any]], classes: Sequence[str], what: str
) -> list[dict[str, Any]]:
    """Return the items of a system's classes, ``class_label`` counted in these."""
    kept = ordered_subset(classes) if classes else CLASSES
    chosen = []
    for item in items:
        name = CLASSES[item["class_label"]]
        if name in kept:
            chosen.append({**item, "class_label": kept.index(name)})
    if not chosen:
        raise InputError(f"{what} has no case of {', '.join(kept)}")
    return chosen


def _warn_of_absent_classes(items: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    present = {classes[item["class_label"]] for item in items}
    absent = [name for name in classes if name not in present]
    if absent:
        logger.warning(
            "no image of the class %s among the %d to train on, so that it cannot be learned; add "
            "a dataset that has some, or set classes to those that are there: %s",
            " and ".join(absent),
            len(items),
            ", ".join(name for name in classes if name in present),
        )


def _folders(given: str | Path | Sequence[str | Path] | None) -> list[str | Path]:
    if not given:
        return []
    return [given] if isinstance(given, (str, Path)) else list(given)


def _split_leaks(
    datalists: Sequence[Datalist], split: str, fold: int | None
) -> dict[str, int] | None:
    found = []
    for datalist in datalists:
        reported = f"fold {fold}" if datalist.folds else "test"
        name = reported if split == "reported" else split
        if name in datalist.leaks["parts"]:
            found.append(datalist.leaks["parts"][name])
    if not found:
        return None
    return {
        "count": sum(len(entry["ids"]) for entry in found),
        "evaluation_images": sum(entry["images"] for entry in found),
    }
