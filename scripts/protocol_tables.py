"""Tables of what was measured under each protocol, and how far it is from what was aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from table_cells import (
    FIGURES,
    figure_cell,
    figure_columns,
    figure_rows,
    is_known,
    kept_metrics,
    markdown,
    number_of,
)

from busi_monai.cases import CLASSES
from busi_monai.curation.datalist import find_split
from busi_monai.evaluation import (
    consistent_table,
    group_weights,
    read_predictions,
    resampled_figures,
    row_groups,
    usable_rows,
)
from busi_monai.files import read_json
from busi_monai.settings import Consistency

__all__ = [
    "FIRST_OUT_OF_FOLD",
    "PLANTED_MARKS",
    "beside_birads",
    "consistency_rule",
    "marks",
    "out_of_fold",
    "protocol_provenance",
    "protocol_targets",
    "seeds",
    "split_rows",
]

RESAMPLES = 1000
TABLE = "predictions.csv"
LOWER_IS_BETTER = ("ece",)
TITLES = {
    **FIGURES,
    "all_iou": "IoU, all images",
    "lesion_dice_by_group": "lesion Dice, mean over groups",
}


@dataclass(frozen=True)
class Protocol:
    """What an evaluation is called, where each release's is kept, and the values aimed at.

    Attributes:
        title: what was evaluated.
        second: folder of the second release's evaluation, or of its recipe's.
        first: that of the first release.
        targets: values that the second release aims at, by figure; ``None`` where none was set.
    """

    title: str
    second: str
    first: str
    targets: Mapping[str, float | None]


PROTOCOLS = (
    Protocol(
        "BUSI, `leakfree`, 5 folds, out of fold",
        "second_out_of_fold_with_rule/busi",
        "out_of_fold_with_rule/busi",
        {
            "lesion_dice": 0.77,
            "lesion_dice_by_group": 0.79,
            "all_dice": 0.77,
            "normal_clean_rate": 0.80,
            "accuracy": 0.84,
            "macro_f1": 0.83,
            "auc_malignant": 0.955,
            "auc_benign_malignant": 0.945,
            "ece": 0.04,
        },
    ),
    Protocol(
        "BUS-BRA, its official folds 1 to 4, out of fold, the same networks",
        "second_out_of_fold_with_rule/bus_bra",
        "",
        {"lesion_dice": 0.89, "auc_benign_malignant": 0.925},
    ),
    Protocol(
        "BUS-UCLM, by patient, out of fold, the same networks",
        "second_out_of_fold_with_rule/bus_uclm",
        "",
        {"lesion_dice": 0.74, "auc_benign_malignant": 0.86, "normal_clean_rate": 0.86},
    ),
    Protocol(
        "BrEaST, 128 cases never trained or chosen on, released weights",
        "released/breast",
        "first_release/breast",
        {"lesion_dice": 0.75, "auc_benign_malignant": 0.86},
    ),
    Protocol(
        "BUS-BRA, folds 1 and 2, by patient, 5 folds, out of fold",
        "",
        "out_of_fold_with_rule/bus_bra",
        {"lesion_dice": None, "auc_benign_malignant": None},
    ),
    Protocol(
        "Curated BUSI v1, 4 folds, out of fold",
        "second_curated",
        "curated",
        {"all_dice": 0.77, "accuracy": 0.84},
    ),
    Protocol(
        "BUSI, `random` 80/10/10, as the classic project (leaks)",
        "",
        "random",
        {"all_iou": None, "all_dice": None, "accuracy": None},
    ),
    Protocol(
        "BUS-BRA never seen, by a network trained on BUSI alone",
        "second_bus_bra_unseen",
        "bus_bra_unseen",
        {"lesion_dice": 0.72, "auc_benign_malignant": 0.80},
    ),
)
PROTOCOLS += tuple(
    Protocol(
        f"{title} never seen, by a network trained on the two other sets",
        f"second_without/{place}",
        "",
        {"lesion_dice": None, "auc_benign_malignant": None, "auc_malignant": None}
        | ({} if place == "bus_bra" else {"normal_clean_rate": None, "accuracy": None}),
    )
    for title, place in (("BUSI", "busi"), ("BUS-UCLM", "bus_uclm"), ("BUS-BRA", "bus_bra"))
)
OUT_OF_FOLD = {
    "BUSI": "second_out_of_fold_with_rule/busi",
    "BUS-BRA": "second_out_of_fold_with_rule/bus_bra",
    "BUS-UCLM": "second_out_of_fold_with_rule/bus_uclm",
    "BUSI, first release": "out_of_fold_with_rule/busi",
    "BUS-BRA (folds 1 and 2), first release": "out_of_fold_with_rule/bus_bra",
}
"""Place by title, all with the consistency rule."""
FIRST_OUT_OF_FOLD = {
    "BUSI, with the rule": "out_of_fold_with_rule/busi",
    "BUSI, without": "out_of_fold",
    "BUS-BRA, with the rule": "out_of_fold_with_rule/bus_bra",
    "BUS-BRA, without": "out_of_fold_bus_bra",
}
"""The same of the first release."""
SPLIT_ROWS = {
    "busi-leakfree-v1": {
        "first release, from scratch on BUSI and BUS-BRA": "out_of_fold",
        "the same, with the consistency rule": "out_of_fold_with_rule/busi",
        "second release's recipe, with the rule": "second_out_of_fold_with_rule/busi",
    },
    "busi-leakfree-v1-holdout": {
        "first release": "first_release/busi",
        "second release": "released/busi",
    },
}
"""Place of each row's evaluation by its title, for each shipped split."""
SPLIT_FIGURES = (
    "lesion_dice", "all_dice", "accuracy", "macro_f1", "auc_malignant", "auc_benign_malignant",
    "ece",
)  # fmt: skip
BIRADS_FIGURES = {
    "auc": "BI-RADS: AUC for malignancy",
    "sensitivity": "BI-RADS 4 and 5: sensitivity",
    "specificity": "BI-RADS 4 and 5: specificity",
    "network_auc": "networks: AUC for malignancy",
    "difference": "AUC, networks minus BI-RADS, paired",
}
PUBLISHED_SPLITS = ("published_split_1", "published_split_2", "published_split_3")
PUBLISHED_FIGURES = {"iou": ("IoU", "lesion_iou"), "f1": ("F1", "lesion_dice")}
"""Title and figure over images by the figure over batches."""


def protocol_targets(results: Path) -> str:
    """Return each protocol's figures: the second release's, its aims, and the first release's."""
    rows = []
    for protocol in PROTOCOLS:
        kept = kept_metrics(results, {"second": protocol.second, "first": protocol.first})
        second, first = (kept.get(release, {}) for release in ("second", "first"))
        if not second and not first:
            continue
        for name, target in protocol.targets.items():
            cells = [_with_number(metrics.get(name)) for metrics in (second, first)]
            aim = ("–", "–") if target is None else _aim(name, second.get(name), target)
            rows.append([protocol.title, TITLES[name], cells[0], *aim, cells[1]])
    rows += _published_rows(results)
    header = ["protocol", "figure", "second release", "aim", "reached", "first release"]
    return markdown(header, rows)


def _with_number(figure: Mapping[str, Any] | None) -> str:
    return figure_cell(figure) + number_of(figure) if is_known(figure) and figure else "–"


def protocol_provenance(results: Path) -> str:
    """Return on which images each protocol's figures rest, and the hashes to find them by."""
    places = {
        f"{protocol.title}{release}": place
        for protocol in PROTOCOLS
        for release, place in (("", protocol.second), (", first release", protocol.first))
    }
    places |= {f"BUSI, published split {name[-1]}": name for name in PUBLISHED_SPLITS}
    rows = []
    for title, metrics in kept_metrics(results, places).items():
        leaks = metrics.get("leaks")
        leaking = f"{leaks['count']} of {leaks['evaluation_images']}" if leaks else "–"
        datalists = ", ".join(_short(value) for value in metrics.get("datalist_sha256") or [])
        counts = f"{metrics['images']}, {metrics['groups']}"
        kept = _short(metrics["predictions_sha256"])
        rows.append([title, counts, leaking, datalists or "–", kept])
    header = ["protocol", "images, groups", "leaking", "datalist", f"`{TABLE}`"]
    return markdown(header, rows)


def _short(sha256: str) -> str:
    return f"`{sha256[:12]}…`"


def _aim(name: str, figure: Mapping[str, Any] | None, target: float) -> tuple[str, str]:
    """Return the aim, and whether the value as shown, at three digits, reaches it."""
    aim = f"{'≤' if name in LOWER_IS_BETTER else '≥'} {target:.3f}".removesuffix("0")
    if not is_known(figure) or not figure:
        return aim, "–"
    shown = round(figure["value"], 3)
    reached = shown <= target if name in LOWER_IS_BETTER else shown >= target
    return aim, "yes" if reached else "no"


def _published_rows(results: Path) -> list[list[str]]:
    """Return the means over the published splits, with their deviation, as others report them."""
    found = list(kept_metrics(results, {name: name for name in PUBLISHED_SPLITS}).values())
    if not found:
        return []
    title = f"BUSI, {len(found)} of the 3 published splits, last epoch (leaks)"
    rows = []
    for name, (figure, per_image) in PUBLISHED_FIGURES.items():
        batches = [metrics["batch_averaged"][name]["value"] for metrics in found]
        images = [metrics[per_image]["value"] for metrics in found]
        for what, values in (("averaged over batches", batches), ("mean over lesions", images)):
            rows.append([title, f"{figure}, {what}", "–", "–", "–", _spread(values)])
    return rows


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def out_of_fold(
    results: Path,
    names: Sequence[str] = tuple(FIGURES),
    places: Mapping[str, str] = OUT_OF_FOLD,
) -> str:
    """Return figures of the cross-validation's images, each predicted by who never saw it."""
    return figure_columns(results, places, lambda metrics: figure_rows(metrics, names))


def split_rows(results: Path, split: str) -> str:
    """Return the figures of every system that was measured on a shipped split, one a row.

    Raises:
        ValueError: if an evaluation rests on another datalist, or lacks images.
    """
    wanted = read_json(find_split(split))["sha256"]
    rows = []
    for title, metrics in kept_metrics(results, SPLIT_ROWS[split]).items():
        place = SPLIT_ROWS[split][title]
        if wanted not in metrics["datalist_sha256"]:
            raise ValueError(f"{place} was not measured on {split}, whose datalist is {wanted}")
        if metrics.get("missing_images"):
            raise ValueError(f"{place} lacks {metrics['missing_images']} images of {split}")
        cells = [figure_cell(metrics[name]) for name in SPLIT_FIGURES]
        rows.append([title, str(metrics["images"]), *cells])
    header = ["system", "images", *(TITLES[name] for name in SPLIT_FIGURES)]
    return markdown(header, rows)


def seeds(folder: Path, names: Sequence[str], title: str = "BUSI") -> str:
    """Return figures of fold 0 for each seed, and how far seeds lie from each other."""
    found = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/metrics.json"))}
    rows = []
    for name in names:
        figures = [metrics[name] for metrics in found.values() if is_known(metrics.get(name))]
        if figures:
            spread = _spread([each["value"] for each in figures])
            rows.append([TITLES[name], *map(figure_cell, figures), spread])
    header = [f"{title}, fold 0", *(f"seed {seed}" for seed in found), "mean ± deviation"]
    return markdown(header, rows)


def beside_birads(results: Path) -> str:
    """Return what the radiologists' categories and the networks say of malignancy, same images."""
    path = results / "second_out_of_fold_with_rule" / "bus_bra" / "metrics.json"
    figures = read_json(path)["birads"]
    rows = [[title, figure_cell(figures[name])] for name, title in BIRADS_FIGURES.items()]
    return markdown(["figure", f"BUS-BRA, out of fold{number_of(figures['auc'])}"], rows)


def consistency_rule(path: Path, rule: Consistency) -> str:
    """Return the main figures of a table made without the consistency rule, and with it."""
    table = usable_rows(read_predictions(path))
    columns = {"rule off": table, "rule on": consistent_table(table, rule=rule)}
    weights = group_weights(row_groups(table).tolist(), RESAMPLES, 0)
    found = [resampled_figures(one, weights, CLASSES) for one in columns.values()]
    shown = ("lesion_dice", "all_dice", "normal_clean_rate", "accuracy", "macro_f1")
    rows = [
        [TITLES[name], *(figure_cell(figures[name].as_dict()) for figures in found)]
        for name in shown
    ]
    return markdown(["figure", *columns], rows)


MARKS = {
    "busi": "BUSI test split",
    "bus_bra": "BUS-BRA test split",
    "bus_uclm": "BUS-UCLM, fold 0",
}
"""What was looked at of the first release, by the name of its table."""

PLANTED_MARKS = {
    f"{name}_{dataset}": f"{title} validation split, {'with' if name == 'planted' else 'without'}"
    for dataset, title in (("busi", "BUSI"), ("bus_bra", "BUS-BRA"), ("bus_uclm", "BUS-UCLM"))
    for name in ("unplanted", "planted")
}
"""The same of two trainings, without and with marks planted in the training images."""


def marks(results: Path, names: Mapping[str, str] = MARKS) -> str:
    """Return what networks take from marks, as ``marks_study.py`` kept it."""
    kept = {title: results / "marks" / f"{name}.csv" for name, title in names.items()}
    tables = {t: pd.read_csv(path, dtype=str) for t, path in kept.items() if path.is_file()}
    rows = [[title, *row] for title, table in tables.items() for row in table.to_numpy().tolist()]
    return markdown(["images", *next(iter(tables.values())).columns], rows)
