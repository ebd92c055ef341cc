"""A retraining: from what annotators submitted to the next run that is served.

Nothing is validated on that the served weights, or earlier ones, were trained on; and whole
groups of near-duplicates go to one side.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import write_configuration
from busi_monai.curation import Datalist, PrepareOptions, audit_dataset, prepare_dataset
from busi_monai.datasets import read_dataset
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json, write_text
from busi_monai.label_app.served import ServedModel
from busi_monai.label_app.submitted_labels import import_submitted_labels

__all__ = [
    "Retraining",
    "RetrainingOptions",
    "check_trainable",
    "divide",
    "network_settings",
    "retrain",
]

logger = logging.getLogger(__name__)

SHORTEST_AVERAGED = 200
"""Iterations below which the weights' moving average would hardly leave where it started."""

LEDGER = "validated.json"
"""File beside the retrainings: hashes of the images validated on, so that they stay there."""


@dataclass(frozen=True)
class RetrainingOptions:
    """How a retraining is trained.

    Attributes:
        max_epochs: length of the training.
        batch_size: images for one step.
        learning_rate: at its highest.
        val_split: part of the submitted images that is validated on, in (0, 0.5].
        pretrained: whether training starts from the weights that are served.
        seed: of every random draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        label_tag: which labels are trained on.
    """

    max_epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 3e-4
    val_split: float = 0.2
    pretrained: bool = True
    seed: int = 0
    device: str = "auto"
    label_tag: str = "final"

    def __post_init__(self) -> None:
        """Check the values, naming the field that is wrong."""
        if self.max_epochs < 1 or self.batch_size < 1:
            raise InputError(
                f"max_epochs and batch_size must be at least 1, got {self.max_epochs} and "
                f"{self.batch_size}"
            )
        if not 0 < self.val_split <= 0.5:
            raise InputError(f"val_split must lie in (0, 0.5], got {self.val_split}")
        if self.learning_rate <= 0 or self.seed < 0:
            raise InputError(
                f"learning_rate must be above 0 and seed at least 0, got {self.learning_rate} and "
                f"{self.seed}"
            )

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> RetrainingOptions:
        """Return the options that a request names, and the defaults of the others.

        Raises:
            InputError: for a value of the wrong kind.

        Examples:
            >>> RetrainingOptions.from_request({"max_epochs": "5", "model": "breast_ultrasound"})
            RetrainingOptions(max_epochs=5, batch_size=8, learning_rate=0.0003, val_split=0.2, \
pretrained=True, seed=0, device='auto', label_tag='final')
        """
        plain = cls()
        values: dict[str, Any] = {}
        for name, default in vars(plain).items():
            if request.get(name) is None:
                continue
            value = request[name]
            try:
                if isinstance(default, bool):
                    values[name] = str(value).lower() in {"true", "1", "yes"}
                else:
                    values[name] = type(default)(value)
            except (TypeError, ValueError):
                raise InputError(
                    f"{name}: expected a value like {default!r}, got {value!r}"
                ) from None
        return replace(plain, **values)


@dataclass(frozen=True)
class Retraining:
    """What a retraining came to.

    Attributes:
        run: the run that was trained, and is served now.
        before: the bundle or run that was served before.
        training: number of images trained on.
        validation: number of images validated on.
        left_out: submitted labels that could not be used, with the reason.
        best: epoch and score of the weights that were kept.
    """

    run: Path
    before: Path
    training: int
    validation: int
    left_out: list[dict[str, str]] = field(default_factory=list)
    best: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "run": str(self.run), "before": str(self.before)}


def retrain(
    model: ServedModel, studies: Path, retrainings: Path, options: RetrainingOptions | None = None
) -> Retraining:
    """Train on the labels that were submitted, and serve the result.

    Args:
        model: what is served; its weights are where training starts.
        studies: folder of the server's datastore.
        retrainings: where its folder is made, and the ledger of validated images kept.
        options: see ``RetrainingOptions``.

    Raises:
        InputError: if no label can be used, if none is left to validate on, or if what is served
            cannot be trained in one go. Nothing else is served then.
    """
    from busi_monai.training import train_bundle

    options = options or RetrainingOptions()
    served = model.run
    check_trainable(served)
    folder = _new_folder(retrainings)
    submitted = import_submitted_labels(studies, folder / "submitted", options.label_tag)
    for problem in submitted.problems:
        logger.warning("left out %s: %s", problem.id, problem.message)
    if submitted.out is None:
        raise InputError(
            f"{studies} has no usable label of the tag {options.label_tag!r}: "
            + ("; ".join(p.message for p in submitted.problems[:3]) or "none was submitted")
        )
    datalist = _prepare(folder, served, retrainings / LEDGER, options)
    counts = len(datalist.training), len(datalist.validation)
    logger.info("training on %d images, validating on %d", *counts)
    overlay = folder / "retraining.yaml"
    write_configuration(overlay, _settings(served, options, counts[0]))
    run = train_bundle(
        [folder / "prepared"],
        folder / "run",
        configs=[overlay],
        bundle=served,
        overrides={"device_name": options.device},
    )
    _keep_settings(served, run)
    best = read_json(Bundle(run).record_file).get("best", {})
    left_out = [{"id": each.id, "reason": each.message} for each in submitted.problems]
    left_out += map(dict, datalist.excluded)
    done = Retraining(run, served, *counts, left_out=left_out, best=best)
    model.publish(run, training=counts[0], validation=counts[1], best=best)
    return done


def check_trainable(run: Path) -> None:
    """Refuse what is not one network trained in one go: ensembles, two stages, bare exports.

    Raises:
        InputError: naming what it is.
    """
    network = Bundle(run).config("inference").get("network_def", {})
    target = str(network.get("_target_", ""))
    if target.rpartition(".")[2] != "MultiTaskUNet":
        raise InputError(
            f"{run} is a {target.rpartition('.')[2] or 'bundle of an unknown network'}, which is "
            "not trained on submitted labels; serve a run of the multitask bundle to train it"
        )
    if not Bundle(run).config_file("train").is_file():
        raise InputError(f"{run} has no configs/train.yaml, so that it cannot be trained")


def network_settings(run: Path) -> dict[str, Any]:
    """Return the served network's settings by the names that its ``train.yaml`` gives them.

    A shipped bundle's ``train.yaml`` has other defaults than its weights were trained with.
    """
    served = Bundle(run).config("inference")["network_def"]
    trained = Bundle(run).config("train")
    kept = set(served) & set(trained) - {"classes", "segmentation"}
    return {name: served[name] for name in sorted(kept) if not _is_reference(served[name])}


def divide(
    items: Sequence[Mapping[str, Any]],
    share: float,
    seed: int = 0,
    *,
    seen: frozenset[str] = frozenset(),
    validated: frozenset[str] = frozenset(),
) -> dict[str, list[str]]:
    """Return the ids to train and to validate on, whole groups on one side.

    A group of which the served weights have seen an image is trained on; one that an earlier
    retraining validated on is validated on again. Of the others, so many of each class are drawn
    that the share is reached, at least one where the class has two groups or more.

    Args:
        items: with ``id``, ``group``, ``class_label`` and ``sha256``.
        share: of a class's groups that is validated on.
        seed: of the draw.
        seen: hashes of what the served weights were trained on.
        validated: hashes of what was validated on before.

    Examples:
        >>> items = [{"id": n, "group": n, "class_label": 1, "sha256": n} for n in "abc"]
        >>> divide(items, 0.3, seen=frozenset("a"), validated=frozenset("b"))
        {'train': ['a', 'c'], 'validation': ['b']}
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(item["group"], []).append(item)
    held = set()
    for label in sorted({item["class_label"] for item in items}):
        names = [name for name, members in groups.items() if members[0]["class_label"] == label]
        unseen = [name for name in names if not _hashes(groups[name]) & seen]
        kept = [name for name in unseen if _hashes(groups[name]) & validated]
        free = [name for name in unseen if name not in kept]
        wanted = max(round(share * len(names)), int(len(names) > 1)) - len(kept)
        held |= {*kept, *random.Random(seed).sample(free, min(max(wanted, 0), len(free)))}
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    for name, members in groups.items():
        splits["validation" if name in held else "train"] += [item["id"] for item in members]
    return splits


def _prepare(folder: Path, served: Path, ledger: Path, options: RetrainingOptions) -> Datalist:
    """Divide the submitted images and return the datalist of ``folder/prepared``."""
    from busi_monai.training import read_training_images

    together = PrepareOptions(layout="folder", ratios="100/0/0", seed=options.seed)
    audit = audit_dataset(read_dataset(folder / "submitted", "folder"))
    grouped = prepare_dataset(
        folder / "submitted", folder / "grouped", together, audit=audit
    ).datalist
    validated = frozenset(read_json(ledger)) if ledger.is_file() else frozenset()
    splits = divide(
        grouped.records(),
        options.val_split,
        options.seed,
        seen=read_training_images(served) or frozenset(),
        validated=validated,
    )
    for split, ids in splits.items():
        if not ids:
            raise InputError(
                f"of {len(grouped.records())} submitted images none is left for {split}: label "
                "some more that the served weights were not trained on"
            )
        write_text(folder / f"{split}.txt", "\n".join(ids) + "\n")
    prepared = prepare_dataset(
        folder / "submitted",
        folder / "prepared",
        PrepareOptions(
            layout="folder",
            protocol="file",
            train_list=folder / "train.txt",
            validation_list=folder / "validation.txt",
        ),
        audit=audit,
    ).datalist
    now = {item["sha256"] for item in prepared.validation}
    write_json(ledger, sorted(validated | now))
    return replace(prepared, excluded=grouped.excluded)


def _settings(served: Path, options: RetrainingOptions, images: int) -> dict[str, Any]:
    """Return the overlay over the served run's ``train.yaml``."""
    iterations = options.max_epochs * math.ceil(images / options.batch_size)
    point = Bundle(served).settings
    trained = Bundle(served).config("train")
    settings = {
        **network_settings(served),
        **({"classes": list(point.classes)} if point.classes else {}),
        "image_size": list(point.image_size),
        "aspect": point.aspect,
        "normalisation": point.normalisation,
        "median_filter": point.median_filter,
        "clahe": point.clahe,
        "tta_flip": point.tta_flip,
        "initial_run": str(served) if options.pretrained else None,
        "encoder_weights": None,
        "extra_dataset_dir": None,
        "fold": None,
        "cache_dir": None,
        "max_epochs": options.max_epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    if iterations < SHORTEST_AVERAGED:
        settings["ema_decay"] = 0.0
    return {name: value for name, value in settings.items() if name in trained}


def _keep_settings(served: Path, run: Path) -> None:
    """Let the new run decide as the served one does.

    A handful of images is too few to fit a temperature on: that of the weights it started from
    is the better guess. What was measured of thresholds is not true of the new weights.
    """
    before = Bundle(served).settings
    after = Bundle(run).settings
    thresholds = before.class_thresholds.items()
    replace(
        after,
        temperature=before.temperature,
        mask_threshold=before.mask_threshold,
        class_thresholds={name: value for name, value in thresholds if name in after.classes},
        consistency=before.consistency,
    ).save(run)


def _new_folder(retrainings: Path) -> Path:
    retrainings.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    for name in (stamp, *(f"{stamp}-{number}" for number in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            (retrainings / name).mkdir()
            return retrainings / name
    raise InputError(f"{retrainings} holds a thousand retrainings of this second")


def _hashes(items: Iterable[Mapping[str, Any]]) -> set[str]:
    return {item["sha256"] for item in items}


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("@", "$"))
