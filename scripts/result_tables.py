"""Write the tables of results into the pages that show them, from what is kept beside them.

    python scripts/result_tables.py                    # rewrites the tables
    python scripts/result_tables.py --check            # exits with 1 if a page is not up to date
    python scripts/result_tables.py --keep-variant ablations/NAME EVALUATION...  # of validation
    python scripts/result_tables.py --keep-evaluation PLACE EVALUATION # such as released/busi

A page holds ``<!-- table: NAME -->`` … ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from failure_analysis import TABLES as FAILURE_TABLES
from failure_analysis import kept_tables
from network_table import PAGE as NETWORKS
from network_table import encoder_table
from protocol_tables import (
    FIRST_OUT_OF_FOLD,
    PLANTED_MARKS,
    beside_birads,
    consistency_rule,
    marks,
    out_of_fold,
    protocol_provenance,
    protocol_targets,
    seeds,
    split_rows,
)
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

from busi_monai.bundle.configurations import read_configuration
from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.cases import CLASSES
from busi_monai.evaluation import (
    group_weights,
    percentile_interval,
    read_predictions,
    resampled_figures,
    row_groups,
    usable_rows,
)
from busi_monai.files import file_sha256, read_json, write_json, write_text
from busi_monai.settings import Consistency, load_settings

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs" / "results"
PAGES = (
    REPOSITORY / "README.md",
    RESULTS / "accuracy.md",
    RESULTS / "first_release.md",
    RESULTS / "busi-leakfree-v1.md",
    RESULTS / "failures.md",
    NETWORKS,
    REPOSITORY / "bundles" / DEFAULT_BUNDLE / "docs" / "README.md",
)
TABLE = re.compile(r"(<!-- table: (?P<name>[a-z0-9_]+) -->\n).*?(<!-- end -->)", re.DOTALL)

INGREDIENTS = {
    "from scratch (ResNet-18, 160×160), BUSI and BUS-BRA: the first release's fold 0": "seeds/0",
    "ImageNet weights, 160×160, BUSI alone (`cpu.yaml`)": "cpu_fold0",
    "ImageNet weights, 192×192, BUSI alone (`released.yaml`, 24 epochs)": "second_busi_alone",
    "… and BUS-BRA and BUS-UCLM (12 epochs)": "second_seeds/busi/0",
}
"""Place by title, of the reported fold 0 of BUSI without the rule, as the recipe grew."""

RESAMPLES, CONFIDENCE = 1000, 0.95
REFERENCE = "base"
VARIANTS = {
    "base": "BUSI alone, 30 epochs",
    "extra": "BUS-BRA trained on, too: 14 epochs of both, as many steps",
    "extra_strong": "… and crop, shadow, depth gain, blur, wider rotation and scale",
    "extra_balance": "… and classes drawn equally often",
    "pre": "BUS-BRA first (24 epochs, once for all folds), then BUSI alone, 30 epochs",
}
"""Variants of the recipe in the order of the table; … changes `extra`."""

PRETRAINED_VARIANTS = {
    "base": "EfficientNet-Lite0 with ImageNet weights, BUSI, BUS-BRA and BUS-UCLM, 12 epochs",
    "sampling": "classes drawn equally often",
    "strong": "crop, shadow, depth gain, blur, wider rotation and scale",
    "mask_pooling": "the class head pools by the predicted mask",
    "slow_encoder": "the encoder learns at 0.3 of the others' rate",
    "size_224": "images of 224×224",
    "phantoms": "120 phantoms trained on, too",
    "marks": "calipers and text planted in half of the training images",
}
"""Single changes of the recipe that starts from ImageNet weights; the first line is unchanged."""

UNCHOSEN = {
    "BUSI": "second_out_of_fold_unchosen/busi",
    "BUS-BRA": "second_out_of_fold_unchosen/bus_bra",
    "BUS-UCLM": "second_out_of_fold_unchosen/bus_uclm",
}
"""Place by title of the figures without the images that the recipe was chosen on."""

WITHOUT_RULE = {
    "BUSI": "second_out_of_fold/busi",
    "BUS-BRA": "second_out_of_fold/bus_bra",
    "BUS-UCLM": "second_out_of_fold/bus_uclm",
    "BUSI, first release": "out_of_fold",
}
"""Place by title of the cross-validations without the consistency rule."""

SETS = {"": "BUSI", ".bus_bra": "BUS-BRA", ".bus_uclm": "BUS-UCLM"}
"""Datasets of a variant's tables, by what their files' names have behind the variant's."""

KEPT = [
    "id", "group", "true_class", "predicted_class", *(f"p_{name}" for name in CLASSES),
    "dice", "iou", "lesion_pixels", "true_lesion_pixels", "error",
]  # fmt: skip
ABLATION_FIGURES = {
    "lesion_dice": "lesion Dice",
    "all_dice": "all-image Dice",
    "normal_clean_rate": "normals clean",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "auc_malignant": "AUC malignant",
    "auc_benign_malignant": "AUC benign/malignant",
}
OTHER_FIGURES = ("lesion_dice", "auc_benign_malignant")
MAIN = (
    "lesion_dice", "all_dice", "accuracy", "macro_f1", "auc_malignant", "auc_benign_malignant",
)  # fmt: skip
SIZE_FIGURES = {"dice": "Dice", "found": "found at all"}
RELEASED = {
    "BUSI test split": "released/busi",
    "BUS-BRA test split": "released/bus_bra",
    "BUS-UCLM test split": "released/bus_uclm",
    "BrEaST, external": "released/breast",
}
FIRST_RELEASE = {
    "BUSI test split, first release": "first_release/busi",
    "BUS-BRA test split, first release": "first_release/bus_bra",
    "BUS-UCLM test split, first release": "first_release/bus_uclm",
    "BrEaST, first release": "first_release/breast",
}
BUSI_OUT_OF_FOLD = {"BUSI, out of fold": "second_out_of_fold_with_rule/busi"}


def ingredients() -> str:
    """Return the figures of fold 0 of BUSI as the recipe grew."""
    kept = kept_metrics(RESULTS, INGREDIENTS)
    rows = [
        [title, *(figure_cell(metrics[name]) for name in ABLATION_FIGURES)]
        for title, metrics in kept.items()
    ]
    return markdown(["trained from, with, on", *ABLATION_FIGURES.values()], rows)


def keep_evaluation(place: str, evaluation: Path) -> Path:
    """Keep an evaluation's table and figures, without this machine's paths."""
    table = pd.read_csv(evaluation / "predictions.csv", dtype=str, keep_default_na=False)
    table["image"] = [Path(path).name for path in table["image"]]
    metrics = read_json(evaluation / "metrics.json")
    folder = RESULTS / place
    write_text(folder / "predictions.csv", table.to_csv(index=False, lineterminator="\n"))
    metrics["predictions_sha256"] = file_sha256(folder / "predictions.csv")
    write_json(folder / "metrics.json", metrics)
    return folder


def keep_variant(name: str, evaluations: Sequence[Path]) -> Path:
    """Keep the tables of a variant's evaluations as one, an image once for each network.

    Args:
        name: of the folder and the variant, such as ``ablations/base``.
        evaluations: each in the folder of the run that it measured, whose fold the ids begin with.
    """
    tables = []
    for folder in evaluations:
        fold = read_configuration(folder.parent / "configs" / "evaluate.yaml")["fold"]
        table = usable_rows(read_predictions(folder))
        table = table.assign(group=row_groups(table), id=f"{fold}/" + table["id"].astype(str))
        tables.append(table[[column for column in KEPT if column in table]])
    path = RESULTS / f"{name}.csv"
    text = pd.concat(tables).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    write_text(path, text)
    return path


def ablations() -> str:
    """Return the table of the variants: figures on validation splits, differences to the first."""
    header = ["variant", "images", *ABLATION_FIGURES.values()]
    header += [f"BUS-BRA {ABLATION_FIGURES[name]}" for name in OTHER_FIGURES]
    rows = []
    for name, meaning in VARIANTS.items():
        path = RESULTS / "ablations" / f"{name}.csv"
        if not path.is_file():
            continue
        table, other = _read(path), path.with_name(f"{name}.bus_bra.csv")
        cells = [f"`{name}`: {meaning}", str(len(table))]
        reference = path.with_name(f"{REFERENCE}.csv")
        cells += _against_reference(table, reference, tuple(ABLATION_FIGURES))
        if other.is_file():
            reference = path.with_name(f"{REFERENCE}.bus_bra.csv")
            cells += _against_reference(_read(other), reference, OTHER_FIGURES)
        rows.append(cells)
    return markdown(header, rows)


def pretraining() -> str:
    """Return the single changes of the recipe with ImageNet weights, on each set's validation."""
    header = ["change", "set", "images", *ABLATION_FIGURES.values()]
    rows = []
    for name, meaning in PRETRAINED_VARIANTS.items():
        for ending, dataset in SETS.items():
            path = RESULTS / "pretraining" / f"{name}{ending}.csv"
            if path.is_file():
                table = _read(path)
                reference = path.with_name(f"{REFERENCE}{ending}.csv")
                figures = _against_reference(table, reference, tuple(ABLATION_FIGURES))
                rows.append([f"`{name}`: {meaning}", dataset, str(len(table)), *figures])
    return markdown(header, rows)


def _against_reference(table: pd.DataFrame, reference: Path, names: Sequence[str]) -> list[str]:
    """Return each figure with its paired difference to the reference's, on common images."""
    other = _read(reference)
    ids = sorted(table["id"])
    missing = set(ids) - set(other["id"])
    if missing:
        raise ValueError(
            f"{reference.name} lacks {sorted(missing)[:5]}: evaluate it on the same folds"
        )
    pair = [
        one.set_index("id", drop=False).loc[ids].reset_index(drop=True) for one in (table, other)
    ]
    weights = group_weights(pair[0]["group"].tolist(), RESAMPLES, 0)
    ours, theirs = (resampled_figures(one, weights, CLASSES) for one in pair)
    cells = []
    for name in names:
        if name not in ours or not np.isfinite(ours[name].value):
            cells.append("–")
            continue
        text = f"{ours[name].value:.3f}"
        if not pair[0].equals(pair[1]):
            low, high = percentile_interval(ours[name].samples - theirs[name].samples, CONFIDENCE)
            difference = ours[name].value - theirs[name].value
            text += f" ({difference:+.3f}, {low:+.3f} to {high:+.3f})"
        cells.append(text)
    return cells


def _read(path: Path) -> pd.DataFrame:
    return usable_rows(read_predictions(path))


def released_main() -> str:
    """Return the main figures of the released weights and of the first release, a set a row."""
    names = ("lesion_dice", "accuracy", "auc_benign_malignant")
    header = ["images", *(FIGURES[name] for name in names)]
    kept = kept_metrics(RESULTS, {**RELEASED, **FIRST_RELEASE})
    rows = [
        [f"{title}, {metrics['images']}", *(figure_cell(metrics[name]) for name in names)]
        for title, metrics in kept.items()
    ]
    return markdown(header, rows)


def released_validation() -> str:
    """Return the validation splits' figures, without the released weights' rule and with it."""
    settings = load_settings(find_bundle(DEFAULT_BUNDLE))
    path = RESULTS / "released" / "validation" / "predictions.csv"
    return consistency_rule(path, settings.consistency)


def _class_rows(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return recall and Dice of the images of a class, precision of those that are called so."""
    confusion = metrics["confusion_matrix"]
    called = dict(zip(confusion["classes"], np.sum(confusion["counts"], axis=0), strict=True))
    return {
        f"{of_class}, {name}": figure_cell(figures[name]) + number_of({"n": n})
        for of_class, figures in metrics["per_class"].items()
        if figures["n"]
        for name, n in (
            ("recall", figures["n"]),
            ("precision", called[of_class]),
            ("dice", figures["n"]),
        )
        if is_known(figures.get(name))
    }


def _size_rows(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{size}, {title}": figure_cell(figures[name]) + number_of(figures)
        for size, figures in metrics.get("per_size", {}).items()
        for name, title in SIZE_FIGURES.items()
        if is_known(figures.get(name))
    }


def _threshold_rows(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{name}, {figure}": figure_cell(point[figure])
        for name, point in metrics.get("operating_points", {}).items()
        for figure in ("sensitivity", "specificity", "ppv", "npv")
        if is_known(point.get(figure))
    }


TABLES: dict[str, Callable[[], str]] = {
    "protocol_targets": lambda: protocol_targets(RESULTS),
    "protocol_provenance": lambda: protocol_provenance(RESULTS),
    "out_of_fold": lambda: out_of_fold(RESULTS),
    "second_unchosen": lambda: out_of_fold(RESULTS, (*MAIN, "normal_clean_rate"), UNCHOSEN),
    "second_without_rule": lambda: out_of_fold(
        RESULTS, ("lesion_dice", "all_dice", "normal_clean_rate"), WITHOUT_RULE
    ),
    "first_out_of_fold": lambda: out_of_fold(RESULTS, places=FIRST_OUT_OF_FOLD),
    "first_released": lambda: figure_columns(RESULTS, FIRST_RELEASE, figure_rows),
    "first_validation": lambda: consistency_rule(
        RESULTS / "first_release" / "validation" / "predictions.csv", Consistency(enabled=True)
    ),
    "out_of_fold_main": lambda: out_of_fold(RESULTS, MAIN),
    "out_of_fold_by_class": lambda: figure_columns(RESULTS, BUSI_OUT_OF_FOLD, _class_rows),
    "out_of_fold_by_size": lambda: figure_columns(RESULTS, BUSI_OUT_OF_FOLD, _size_rows),
    "out_of_fold_operating_points": lambda: figure_columns(
        RESULTS, BUSI_OUT_OF_FOLD, _threshold_rows
    ),
    "ingredients": ingredients,
    "seeds": lambda: seeds(RESULTS / "seeds", MAIN),
    "second_seeds": lambda: "\n\n".join(
        seeds(RESULTS / "second_seeds" / place.rpartition("/")[2], MAIN, title)
        for title, place in UNCHOSEN.items()
    ),
    "busi_leakfree_v1": lambda: split_rows(RESULTS, "busi-leakfree-v1"),
    "busi_leakfree_v1_holdout": lambda: split_rows(RESULTS, "busi-leakfree-v1-holdout"),
    "out_of_fold_birads": lambda: beside_birads(RESULTS),
    **{
        f"failures_{name}": lambda name=name: kept_tables(RESULTS)[name]  # type: ignore[misc]
        for name in (*FAILURE_TABLES, "mended")
    },
    "ablations": ablations,
    "pretraining": pretraining,
    "marks": lambda: marks(RESULTS),
    "planted_marks": lambda: marks(RESULTS, PLANTED_MARKS),
    "released": lambda: figure_columns(RESULTS, RELEASED, figure_rows),
    "released_main": released_main,
    "released_validation": released_validation,
    "released_by_class": lambda: figure_columns(RESULTS, RELEASED, _class_rows),
    "released_by_size": lambda: figure_columns(RESULTS, RELEASED, _size_rows),
    "released_operating_points": lambda: figure_columns(RESULTS, RELEASED, _threshold_rows),
    "encoders": encoder_table,
}


def page_with_tables(page: str) -> str:
    """Return a page with all of its tables written anew."""
    return TABLE.sub(lambda found: f"{found[1]}\n{TABLES[found['name']]()}\n\n{found[3]}", page)


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--keep-variant", nargs="+", metavar="NAME EVALUATION")
    parser.add_argument("--keep-evaluation", nargs=2, metavar=("PLACE", "EVALUATION"))
    options = parser.parse_args(arguments)
    if options.keep_variant:
        name, *evaluations = options.keep_variant
        keep_variant(name, [Path(folder) for folder in evaluations])
    if options.keep_evaluation:
        place, evaluation = options.keep_evaluation
        keep_evaluation(place, Path(evaluation))
    stale = []
    for path in PAGES:
        page = path.read_text("utf-8")
        new = page_with_tables(page)
        if new != page:
            stale.append(path.name)
            if not options.check:
                write_text(path, new)
    if options.check and stale:
        print(f"{', '.join(stale)}: run python scripts/result_tables.py")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
