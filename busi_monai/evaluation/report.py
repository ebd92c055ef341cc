"""An evaluation written beside its predictions: ``metrics.json``, figures and ``report.md``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.errors import InputError
from busi_monai.evaluation.lesion_sizes import LESION_SIZES
from busi_monai.evaluation.measures import evaluate_predictions
from busi_monai.evaluation.tables import read_predictions, table_classes, usable_rows
from busi_monai.files import file_sha256, read_json, write_json, write_text
from busi_monai.plots.evaluation import draw_evaluation
from busi_monai.records import split_of
from busi_monai.settings import PREVALENCE, MalignancyThreshold

__all__ = ["TITLES", "MetricsReport", "markdown_table", "report_markdown", "write_evaluation"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1

TITLES = {
    "lesion_dice": "Lesion Dice",
    "lesion_dice_by_group": "Lesion Dice, mean over groups",
    "lesion_iou": "Lesion IoU",
    "all_dice": "Dice, all images",
    "all_iou": "IoU, all images",
    "mean_iou": "Mean IoU of lesion and background",
    "normal_clean_rate": "Images without lesion left clean",
    "pixel_accuracy": "Pixel accuracy",
    "hd95_px": "95 % Hausdorff distance (px)",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "auc_macro": "AUC, macro, one against rest",
    "auc_malignant": "AUC, malignant against rest",
    "auc_benign_malignant": "AUC, benign against malignant",
    "average_precision_macro": "Average precision, macro",
    "ece": "Expected calibration error",
    "brier": "Brier score",
}
PROVENANCE = {
    "datalist": "Datalist",
    "protocol": "Protocol",
    "split": "Split",
    "fold": "Fold",
    "lesion_boxes": "Classified crops lie around",
    "leaks": "Evaluation images with a near-duplicate in training",
    "missing_images": "Images of these splits that the table lacks",
    "seen_in_training": "Evaluation images that the network was trained on",
    "datalist_sha256": "Datalist SHA-256",
    "labels_sha256": "Masks SHA-256",
    "weights_sha256": "Weights SHA-256",
    "predictions_sha256": "Predictions SHA-256",
}


def write_evaluation(
    folder: str | Path,
    *,
    classes: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    operating_points: Mapping[str, float] | None = None,
    prevalence: float = PREVALENCE,
    seed: int = 0,
    resamples: int = 1000,
    figures: bool = True,
) -> dict[str, Any]:
    """Measure the predictions of a folder and write what is found beside them.

    Args:
        folder: a predictions folder made with known truth; gets ``metrics.json``, ``report.md``
            and ``figures/``.
        classes: classes with probability columns; by default those of the table.
        provenance: protocol, split, fold, leaks and hashes; what is missing is taken from the
            folder's ``run.json``.
        operating_points: thresholds for malignancy by name; see ``evaluate_predictions``.
        prevalence: part of malignant images that predictive values are told for.
        seed: of the resampling.
        resamples: number of resamples.
        figures: whether figures are drawn.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: if the table is missing or cannot be measured.
    """
    folder = Path(folder)
    table = read_predictions(folder)
    measured = evaluate_predictions(
        table,
        classes=table_classes(table) if classes is None else classes,
        operating_points=operating_points,
        prevalence=prevalence,
        seed=seed,
        resamples=resamples,
    )
    known = {**_recorded(folder), **(provenance or {})}
    known["predictions_sha256"] = file_sha256(folder / "predictions.csv")
    metrics = {"schema_version": SCHEMA_VERSION, **measured, **known}
    drawn = draw_evaluation(usable_rows(table), metrics, folder) if figures else {}
    relative = {title: path.relative_to(folder).as_posix() for title, path in drawn.items()}
    write_json(folder / "metrics.json", metrics)
    write_text(folder / "report.md", report_markdown(metrics, table, relative))
    logger.info("measured %d images", metrics["images"])
    return metrics


class MetricsReport:
    """``write_evaluation`` as an object that a bundle's ``PredictionsSaver`` calls at its end.

    Args:
        classes: classes with probability columns; by default those of the table.
        provenance: as for ``write_evaluation``.
        operating_points: those of ``settings.json``, by name.
        seed: of the resampling.
        resamples: number of resamples.
        figures: whether figures are drawn.

    Attributes:
        metrics: content of the ``metrics.json`` last written.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        *,
        provenance: Mapping[str, Any] | None = None,
        operating_points: Mapping[str, MalignancyThreshold] | None = None,
        seed: int = 0,
        resamples: int = 1000,
        figures: bool = True,
    ) -> None:
        self.classes = classes
        self.provenance = provenance
        self.operating_points = dict(operating_points or {})
        self.seed = seed
        self.resamples = resamples
        self.figures = figures
        self.metrics: dict[str, Any] = {}

    def __call__(self, folder: str | Path) -> None:
        """Write the evaluation of a predictions folder."""
        self.metrics = write_evaluation(
            folder,
            classes=self.classes,
            provenance=self.provenance,
            operating_points={name: at.threshold for name, at in self.operating_points.items()},
            prevalence=next((at.prevalence for at in self.operating_points.values()), PREVALENCE),
            seed=self.seed,
            resamples=self.resamples,
            figures=self.figures,
        )


def report_markdown(
    metrics: Mapping[str, Any], table: pd.DataFrame, figures: Mapping[str, str]
) -> str:
    """Return the report as Markdown.

    Args:
        metrics: the content of ``metrics.json``.
        table: rows as in ``predictions.csv``.
        figures: path relative to the report by title.
    """
    bootstrap = metrics["bootstrap"]
    lines = [
        "# Evaluation",
        "",
        NOT_FOR_CLINICAL_USE,
        "",
        f"{metrics['images']} images in {metrics['groups']} groups; {metrics['failed']} failed. "
        f"Intervals: {100 * bootstrap['confidence']:.0f} %, {bootstrap['resamples']} bootstrap "
        "resamples of whole groups. They tell of the choice of images, not of training anew.",
        "",
        *_provenance_lines(metrics),
        "## Figures",
        "",
        *_figure_table({t: metrics[name] for name, t in TITLES.items() if name in metrics}),
        "",
        *_per_class_lines(metrics),
        *_per_size_lines(metrics),
        *_batch_average_lines(metrics),
        *_operating_point_lines(metrics),
        *_reader_lines(metrics),
        *_confusion_lines(metrics),
        *(line for title, path in figures.items() for line in (f"![{title}]({path})", "")),
        *_failure_lines(table),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _recorded(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / "run.json")
    except InputError:
        return {}
    if "part" in record:
        record = {**record, "split": split_of(record)}
    return {name: record[name] for name in PROVENANCE if name in record}


def _provenance_lines(metrics: Mapping[str, Any]) -> list[str]:
    known = [
        f"- {title}: {_plain(metrics[name])}"
        for name, title in PROVENANCE.items()
        if metrics.get(name) is not None
    ]
    return [*known, ""] if known else []


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):  # leaks
        warning = "; the figures are good for comparison only" if value["count"] else ""
        return f"{value['count']} of {value['evaluation_images']}{warning}"
    if isinstance(value, (list, tuple)):
        return ", ".join("not told" if each is None else str(each) for each in value)
    return str(value)


def _figure_table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [title, *(_number(figure[name]) for name in ("value", "low", "high")), figure["n"]]
        for title, figure in figures.items()
    ]
    return markdown_table(["", "value", "low", "high", "images"], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(figure: Mapping[str, Any]) -> str:
    if figure["low"] is None:
        return _number(figure["value"])
    return f"{_number(figure['value'])} ({_number(figure['low'])}–{_number(figure['high'])})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table whose first column is text and whose others are numbers."""
    lines = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    first, *others = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (head, *lines)]
    return [first, "|---|" + "---:|" * (len(head) - 1), *others]


def _per_class_lines(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics.get("per_class"):
        return []
    kinds = ("precision", "recall", "f1", "auc", "dice")
    rows = [
        [name, figures["n"], *(_interval(figures[kind]) for kind in kinds)]
        for name, figures in metrics["per_class"].items()
    ]
    return ["## By class", "", *markdown_table(["class", "images", *kinds], rows), ""]


def _per_size_lines(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics.get("per_size"):
        return []
    rows = [
        [
            f"{name}, {_size_range(name)}",
            figures["n"],
            *(_interval(figures[kind]) for kind in ("dice", "iou", "found")),
        ]
        for name, figures in metrics["per_size"].items()
    ]
    head = ["part of the image", "images", "Dice", "IoU", "found at all"]
    return ["## By size of the lesion", "", *markdown_table(head, rows), ""]


def _size_range(name: str) -> str:
    low, high = (100 * side for side in LESION_SIZES[name])
    if not low:
        return f"below {high:g} %"
    return f"{low:g} % and more" if high > 100 else f"{low:g} to {high:g} %"


def _batch_average_lines(metrics: Mapping[str, Any]) -> list[str]:
    averaged = metrics.get("batch_averaged")
    if not averaged:
        return []
    return [
        "## As benchmark code averages",
        "",
        f"Averaged over batches of {averaged['batch_size']} in {averaged['orders']} random orders, "
        "for comparison with benchmark code alone, whose large lesions outweigh the small ones: "
        f"IoU {_interval(averaged['iou'])}, F1 {_interval(averaged['f1'])}; the ranges are those "
        "over the orders.",
        "",
    ]


def _operating_point_lines(metrics: Mapping[str, Any]) -> list[str]:
    points = metrics.get("operating_points")
    if not points:
        return []
    kinds = ("sensitivity", "specificity", "ppv", "npv")
    prevalence = next(iter(points.values()))["prevalence"]
    head = ["fitted for", "threshold", "sensitivity", "specificity", "positive predictive value"]
    head += ["negative predictive value", "missed", "false alarms"]
    rows = [
        [
            name,
            _threshold_range(point["thresholds"]),
            *(_interval(point[kind]) for kind in kinds),
            f"{point['missed']} of {point['sensitivity']['n']}",
            f"{point['false_alarms']} of {point['specificity']['n']}",
        ]
        for name, point in points.items()
    ]
    return [
        "## Malignant from a threshold on",
        "",
        "Of a table with folds, each fold's thresholds were fitted on the other folds; otherwise "
        "they are those of settings.json, which flatter on the images that they were fitted on. "
        f"Predictive values are those at a prevalence of {100 * prevalence:g} %.",
        "",
        *markdown_table(head, rows),
        "",
    ]


def _reader_lines(metrics: Mapping[str, Any]) -> list[str]:
    readers = metrics.get("birads")
    if not readers:
        return []
    titles = {
        "auc": "BI-RADS: AUC for malignancy",
        "sensitivity": "BI-RADS 4 and 5: sensitivity",
        "specificity": "BI-RADS 4 and 5: specificity",
        "network_auc": "network: AUC for malignancy",
        "difference": "AUC, network minus BI-RADS (paired)",
    }
    return [
        "## Beside the radiologists' categories",
        "",
        "On the images that have a BI-RADS category. Whoever gave it may have seen more than these "
        "images.",
        "",
        *_figure_table({title: readers[name] for name, title in titles.items()}),
        "",
    ]


def _threshold_range(thresholds: Sequence[float]) -> str:
    low, high = min(thresholds), max(thresholds)
    return f"{low:.3f}" if low == high else f"{low:.3f}–{high:.3f}"


def _confusion_lines(metrics: Mapping[str, Any]) -> list[str]:
    confusion = metrics.get("confusion_matrix")
    if not confusion:
        return []
    rows = [
        [name, *row] for name, row in zip(confusion["classes"], confusion["counts"], strict=True)
    ]
    table = markdown_table(["true ↓ predicted →", *confusion["classes"]], rows)
    return ["## Confusion matrix", "", *table, ""]


def _failure_lines(table: pd.DataFrame) -> list[str]:
    failed = table[table["error"] != ""] if "error" in table.columns else table[:0]
    lines = [
        f"- {id}: {error}" for id, error in zip(failed["id"], failed.get("error", []), strict=True)
    ]
    return ["## Failed images", "", *lines] if lines else []
