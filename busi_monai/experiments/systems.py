"""What was measured of a system: read from an evaluation, checked against the others'."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from busi_monai.bundle import Bundle
from busi_monai.curation.label_hashes import named_cases, note_without_label_hashes
from busi_monai.datasets import natural_key
from busi_monai.errors import InputError
from busi_monai.evaluation import read_predictions, row_groups, table_classes, usable_rows
from busi_monai.evaluation.resampling import plain_number
from busi_monai.files import read_json
from busi_monai.records import split_of

__all__ = [
    "COSTS",
    "System",
    "check_same_truth",
    "named_notes",
    "named_path",
    "read_system",
    "shared_images",
]

COSTS = {
    "parameters": "Parameters",
    "flops": "FLOPs of an image",
    "seconds_per_image": "Seconds an image",
    "training_seconds": "Training, s",
    "epochs": "Epochs",
    "image_size": "Input, px",
    "seed": "Seed",
    "device": "Evaluated on",
}
"""What is told of a system beside its figures, by its title."""

SHOWN = 5


@dataclass(frozen=True)
class System:
    """One evaluated system.

    Attributes:
        name: what it is called in tables.
        folder: the evaluation that its figures come from.
        table: its rows without an error, indexed by image id, with the column ``group`` filled.
        failed: ids of the images that it could not predict.
        classes: its classes in order; empty without a class head.
        provenance: ``metrics.json``: protocol, split, fold, hashes, leaks.
        training: what is known of its training: ``network``, ``seconds``, ``epochs``, ``seed``, …
        device: where it was evaluated.
    """

    name: str
    folder: Path
    table: pd.DataFrame
    failed: tuple[str, ...]
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    training: Mapping[str, Any]
    device: str | None

    def knows(self, true_class: str) -> bool:
        """Whether images of a class are among those that the system is meant for."""
        return not self.classes or not true_class or true_class in self.classes

    def on(self, ids: Iterable[str]) -> System:
        """Return the system with those of its rows that are among the ids."""
        wanted = set(ids)
        return replace(self, table=self.table[[id in wanted for id in self.table.index]])

    def costs(self) -> dict[str, Any]:
        """Return ``COSTS`` as plain values, ``None`` for what is not known."""
        network = self.training.get("network") or {}
        seconds = self.table["seconds"].median() if "seconds" in self.table else math.nan
        known = {
            **{name: network.get(name) for name in ("parameters", "flops", "image_size")},
            **{name: self.training.get(name) for name in ("epochs", "seed")},
            "training_seconds": self.training.get("seconds"),
            "seconds_per_image": plain_number(seconds),
            "device": self.device,
        }
        return {name: known[name] for name in COSTS}


def named_path(text: str) -> tuple[str, Path]:
    """Return name and path of ``NAME=PATH``, or of a path alone, named by its last folder.

    An evaluation inside a run is named by the run.

    Examples:
        >>> named_path("ours=runs/best")
        ('ours', PosixPath('runs/best'))
        >>> named_path("runs/best/evaluation")
        ('best', PosixPath('runs/best/evaluation'))
    """
    name, sign, path = text.partition("=")
    if sign and not Path(text).exists():
        if not name.strip() or not path:
            raise InputError(f"{text!r}: expected NAME=PATH, or a path alone")
        return name.strip(), Path(path)
    folder = Path(text)
    parts = [part for part in folder.absolute().parts if part != "evaluation"]
    return parts[-1], folder


def named_notes(texts: Iterable[str]) -> dict[str, str]:
    """Return ``NAME=TEXT`` remarks as a mapping.

    Raises:
        InputError: if one has no ``=`` or no name.
    """
    notes = {}
    for text in texts:
        name, sign, note = text.partition("=")
        if not sign or not name.strip():
            raise InputError(f"--note {text!r}: expected NAME=TEXT")
        notes[name.strip()] = note.strip()
    return notes


def read_system(name: str, path: str | Path) -> System:
    """Read an evaluated system.

    Args:
        name: what it is to be called.
        path: an evaluation's folder, a run with an ``evaluation/`` in it, or a cross-validation.

    Raises:
        InputError: if there is no evaluation, or one without known truth.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is no folder; expected a run, an evaluation or cross-validation")
    folder = path if (path / "predictions.csv").is_file() else path / "evaluation"
    if not (folder / "predictions.csv").is_file() or not (folder / "metrics.json").is_file():
        raise InputError(
            f"{path} holds no evaluation (predictions.csv and metrics.json, in it or in its "
            f"evaluation/); make one: busi-monai evaluate {path} PREPARED --out {path}/evaluation"
        )
    table = read_predictions(folder)
    usable = usable_rows(table)
    usable = usable.assign(group=row_groups(usable)).set_index("id", drop=False)
    if not usable.index.is_unique:
        raise InputError(f"{folder}/predictions.csv: an id stands in it twice")
    record = _json_or_empty(Bundle(folder).record_file)
    training = record.get("training") or (
        _json_or_empty(Bundle(path).record_file) if folder != path else {}
    )
    metrics = read_json(folder / "metrics.json")
    return System(
        name=name,
        folder=folder,
        table=usable,
        failed=tuple(sorted(set(table["id"]) - set(usable["id"]), key=natural_key)),
        classes=table_classes(table),
        provenance={**metrics, "split": split_of(metrics)},
        training=training,
        device=(record.get("device") or {}).get("name"),
    )


def check_same_truth(systems: Sequence[System]) -> None:
    """Check that an id means the same image, with the same mask, to all systems.

    Raises:
        InputError: naming the image whose true class or lesion area differs, or those whose masks
            differ.
    """
    _check_masks(systems)
    known: dict[str, tuple[str, float, str]] = {}
    for system in systems:
        for id, true_class, area in _truths(system.table):
            earlier = known.setdefault(id, (true_class, area, system.name))
            same_area = earlier[1] == area or pd.isna(earlier[1]) or pd.isna(area)
            if earlier[0] != true_class or not same_area:
                raise InputError(
                    f"{id!r} is another image to {earlier[2]} ({earlier[0]}, {earlier[1]:.0f} "
                    f"lesion pixels) than to {system.name} ({true_class}, {area:.0f}): these "
                    "evaluations are of different datasets and cannot be compared"
                )


def shared_images(systems: Sequence[System], *, common: bool = False) -> list[str]:
    """Return the ids of the images that a comparison is about, sorted.

    An image belongs to it if every system that knows its class has scored it; a binary system need
    not have scored normals.

    Args:
        systems: what is to be compared.
        common: leave out the other images, and let datalists differ. Otherwise both are refused.

    Raises:
        InputError: if the systems were measured on different datalists or images, or no image is
            left.
    """
    if not common:
        _check_datalists(systems)
    classes = {id: name for system in systems for id, name, _ in _truths(system.table)}
    kept, lacking = [], {system.name: [] for system in systems}  # type: ignore[var-annotated]
    for id in sorted(classes):
        without = [s.name for s in systems if s.knows(classes[id]) and id not in s.table.index]
        for name in without:
            lacking[name].append(id)
        if not without:
            kept.append(id)
    if not common and len(kept) < len(classes):
        raise InputError(f"the systems scored different images: {_lacking(systems, lacking)}")
    if not kept:
        raise InputError(
            "no image was scored by all systems; compare evaluations of one split of one dataset"
        )
    return kept


def _check_datalists(systems: Sequence[System]) -> None:
    first = systems[0]
    for system in systems[1:]:
        hashes = [s.provenance.get("datalist_sha256") for s in (first, system)]
        if hashes[0] != hashes[1]:
            told = [", ".join(h[:12] for h in found) if found else "none" for found in hashes]
            raise InputError(
                f"{first.name} was measured on the datalist {told[0]}, {system.name} on {told[1]}: "
                "their splits are not the same. Evaluate both on one prepared dataset, or compare "
                "on the images in common with --common"
            )


def _check_masks(systems: Sequence[System]) -> None:
    """Refuse images that systems were measured on with different masks, by the masks' hashes."""
    told = [(system, _masks(system.table)) for system in systems]
    if any(masks for _, masks in told):
        for system, masks in told:
            if not masks and "true_lesion_pixels" in system.table:
                note_without_label_hashes(f"the evaluation {system.folder}")
    for index, (system, masks) in enumerate(told):
        for other, earlier in told[:index]:
            shared = earlier.keys() & masks.keys()
            changed = sorted((id for id in shared if earlier[id] != masks[id]), key=natural_key)
            if changed:
                raise InputError(
                    f"{other.name} and {system.name} were measured against different masks of "
                    f"{named_cases(changed)}. Evaluate both on one prepared dataset"
                )


def _masks(table: pd.DataFrame) -> dict[str, str]:
    """Return the hashes of the true masks by image, where the table tells them."""
    if "label_sha256" not in table:
        return {}
    told = table[table["label_sha256"] != ""]
    return dict(zip(told["id"], told["label_sha256"], strict=True))


def _lacking(systems: Sequence[System], lacking: Mapping[str, Sequence[str]]) -> str:
    told = []
    for system in systems:
        ids = sorted(lacking[system.name], key=natural_key)
        if ids:
            failed = len(set(ids) & set(system.failed))
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            reason = f", {failed} of which failed" if failed else ""
            told.append(f"{system.name} lacks {', '.join(ids[:SHOWN])}{more}{reason}")
    return (
        "; ".join(told)
        + ". Evaluate all on the same split and fold, or compare on the images in common with "
        "--common"
    )


def _truths(table: pd.DataFrame) -> Iterable[tuple[str, str, float]]:
    nothing = [float("nan")] * len(table)
    areas = table.get("true_lesion_pixels", nothing)
    return zip(table["id"], table["true_class"], areas, strict=True)


def _json_or_empty(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
