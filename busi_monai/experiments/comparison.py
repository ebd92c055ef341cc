"""Systems side by side, and their paired differences to a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from busi_monai.errors import InputError
from busi_monai.evaluation import group_weights, percentile_interval, resampled_figures
from busi_monai.evaluation.measures import PAIR_AUC, is_mask_figure
from busi_monai.evaluation.report import PROVENANCE
from busi_monai.evaluation.resampling import CONFIDENCE, plain_number
from busi_monai.experiments.systems import System, check_same_truth, shared_images

__all__ = ["Comparison", "compare_systems", "paired_differences"]

PAIR = ("benign", "malignant")
HEADER = {
    **{name: PROVENANCE[name] for name in ("protocol", "split", "fold")},
    "folds": "Folds, pooled",
    **{name: PROVENANCE[name] for name in ("leaks", "seen_in_training", "lesion_boxes")},
    **{name: PROVENANCE[name] for name in ("datalist_sha256", "labels_sha256")},
}
"""What figures must be stated with, by its name in ``comparison.json``, with its title."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found, as plain JSON values.

    Attributes:
        title: of the report.
        reference: name of the system that differences are taken to.
        header: images, groups, and by name ``protocol``, ``split``, ``fold``, ``datalist_sha256``,
            ``labels_sha256``, ``leaks``, ``seen_in_training``, ``lesion_boxes``: one value if all
            systems agree, else one by system.
        systems: for each its name, note, classes, ``figures`` and ``costs``; those that were only
            noted have neither.
        differences: by system and figure ``{difference, low, high, same_sign, n}``.
    """

    title: str
    reference: str
    header: dict[str, Any]
    systems: list[dict[str, Any]]
    differences: dict[str, dict[str, dict[str, Any]]]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``comparison.json``."""
        return {"schema_version": 1, **vars(self)}


def compare_systems(
    systems: Sequence[System],
    *,
    reference: str | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "Comparison",
    common: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Measure systems on the same images and against each other.

    Args:
        systems: with different names.
        reference: name of the one that the others are held against; by default the first.
        notes: remarks by system. A name that is not among the systems becomes a row of its own,
            for what could not be run.
        title: of the report.
        common: compare on the images that all systems scored, whatever their datalists.
        resamples: bootstrap resamples of the groups.
        seed: of the resampling.

    Raises:
        InputError: if a name stands twice, the reference is not there, or the systems were not
            measured on the same images and masks.
    """
    names = [system.name for system in systems]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not systems:
        raise InputError("nothing to compare; expected at least one evaluated system")
    if repeated:
        raise InputError(
            f"several systems are called {', '.join(repeated)}; name them apart: NAME=PATH"
        )
    if reference is not None and reference not in names:
        raise InputError(f"no system {reference!r} to refer to; there are {', '.join(names)}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    notes = dict(notes or {})
    check_same_truth(systems)
    kept = shared_images(systems, common=common)
    systems = [system.on(kept) for system in systems]
    (against,) = [s for s in systems if s.name == (reference or names[0])]
    groups = {id: group for s in systems for id, group in s.table["group"].items()}
    header = {
        "images": len(kept),
        "groups": len(set(groups.values())),
        "common": common,
        "bootstrap": {"resamples": resamples, "seed": seed, "confidence": CONFIDENCE},
        **{name: _agreed(systems, "fold_ids" if name == "folds" else name) for name in HEADER},
    }
    rows = [_row(system, notes.pop(system.name, ""), resamples, seed) for system in systems]
    rows += [{"name": name, "note": note} for name, note in notes.items()]
    differences = {
        system.name: paired_differences(system, against, resamples=resamples, seed=seed)
        for system in systems
        if system is not against
    }
    return Comparison(title, against.name, header, rows, differences)


def paired_differences(
    system: System, reference: System, *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the differences of a system's figures to a reference's on the images both scored.

    Both are measured on the same resamples of whole groups, so that what makes an image hard for
    both cancels (Efron and Tibshirani, "An introduction to the bootstrap", 1993, ch. 16). Class
    figures are compared between systems of the same classes only, ``auc_benign_malignant`` between
    all that have both classes, and ``hd95_px`` on the lesions that both found.

    Returns:
        By figure: ``difference`` (system minus reference), ``low`` and ``high`` of its 95 %
        interval, ``same_sign``: the part of the resamples in which it has the same sign
        (``None`` for a difference of zero), and the number ``n`` of images.
    """
    ids = sorted(set(system.table.index) & set(reference.table.index))
    if not ids:
        return {}
    weights = group_weights(reference.table.loc[ids, "group"].tolist(), resamples, seed)
    tables = [s.table.loc[ids].reset_index(drop=True) for s in (system, reference)]
    if all("hd95_px" in table for table in tables):
        missed = np.any([table["hd95_px"].isna() for table in tables], axis=0)
        tables = [table.assign(hd95_px=table["hd95_px"].mask(missed)) for table in tables]
    ours = resampled_figures(tables[0], weights, system.classes)
    theirs = resampled_figures(tables[1], weights, reference.classes)
    found = {}
    for name, figure in ours.items():
        other = theirs.get(name)
        if other is None or figure.n != other.n or not _comparable(name, system, reference):
            continue
        difference = figure.value - other.value
        if math.isnan(difference):
            continue
        samples = figure.samples - other.samples
        low, high = percentile_interval(samples, CONFIDENCE)
        defined = samples[~np.isnan(samples)]
        found[name] = {
            "difference": round(difference, 6),
            "low": plain_number(low),
            "high": plain_number(high),
            "same_sign": _same_sign(difference, defined),
            "n": figure.n,
        }
    return found


def _comparable(name: str, system: System, reference: System) -> bool:
    if is_mask_figure(name) or name.endswith(".dice"):
        return True
    if name == PAIR_AUC:
        return all(set(PAIR) <= set(s.classes) for s in (system, reference))
    return system.classes == reference.classes


def _same_sign(difference: float, samples: np.ndarray[Any, Any]) -> float | None:
    if difference == 0 or not len(samples):
        return None
    return round(float(np.mean(np.sign(samples) == np.sign(difference))), 4)


def _row(system: System, note: str, resamples: int, seed: int) -> dict[str, Any]:
    weights = group_weights(system.table["group"].tolist(), resamples, seed)
    table = system.table.reset_index(drop=True)
    figures = resampled_figures(table, weights, system.classes)
    return {
        "name": system.name,
        "note": note,
        "classes": list(system.classes),
        "images": len(table),
        "figures": {name: figure.as_dict() for name, figure in figures.items()},
        "costs": system.costs(),
    }


def _agreed(systems: Sequence[System], name: str) -> Any:
    values = {system.name: system.provenance.get(name) for system in systems}
    first, *others = values.values()
    return first if all(other == first for other in others) else {"by_system": values}
