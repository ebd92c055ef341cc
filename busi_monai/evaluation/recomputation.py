"""Every figure anew from a kept table of predictions, without the network that made it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from busi_monai.cases import CLASSES, MALIGNANT
from busi_monai.curation import Datalist, load_datalist
from busi_monai.curation.label_hashes import named_cases, note_without_label_hashes
from busi_monai.errors import InputError
from busi_monai.evaluation.consistency import consistent_table
from busi_monai.evaluation.report import write_evaluation
from busi_monai.evaluation.tables import (
    probability_matrix,
    read_predictions,
    table_classes,
    usable_rows,
)
from busi_monai.files import file_sha256, read_json, write_text
from busi_monai.imaging import DEFAULT_MALIGNANT_THRESHOLD
from busi_monai.io.images import mask_sha256, read_mask
from busi_monai.metrics import segmentation_scores
from busi_monai.outputs import output_folder
from busi_monai.records import RunRecord
from busi_monai.settings import PREVALENCE, Consistency
from busi_monai.transforms import check_mask

__all__ = ["evaluate_table"]

logger = logging.getLogger(__name__)


def evaluate_table(
    predictions: str | Path,
    out: str | Path,
    *,
    dataset: str | Path | None = None,
    consistency: Consistency | None = None,
    prevalence: float = PREVALENCE,
    seed: int = 0,
    resamples: int = 1000,
    overwrite: bool = False,
) -> Path:
    """Measure a table of predictions, whoever made it.

    Args:
        predictions: a ``predictions.csv``, or a folder with one. Where the folder holds ``masks/``
            and a dataset is given, the masks are measured anew; otherwise the table's own ``dice``,
            ``iou``, … are taken. With a dataset and masks, ``id`` and the classes' probabilities
            (``p_normal``, …) are enough; the class is then the likeliest.
        out: the folder to make: the table as measured, ``metrics.json``, ``report.md``,
            ``figures/``, ``run.json``.
        dataset: a prepared dataset whose classes, groups and folds replace those of the table, so
            that figures rest on its truth. Without, the table has to have them.
        consistency: make mask and class agree by this rule, in a table made without; whether it is
            ``enabled`` is not asked.
        prevalence: part of malignant images that predictive values are told for, in (0, 1).
        seed: of the bootstrap.
        resamples: number of resamples.
        overwrite: replace an earlier evaluation.

    Returns:
        The folder.

    Raises:
        InputError: if the table is missing or cannot be measured, names an image twice, images that
            the dataset does not have, or has in other folds; if some of its masks are missing, or
            its figures are of other masks than the dataset's; if the consistency rule is asked for
            and was on already, or cannot be applied.
    """
    record = RunRecord()
    source = Path(predictions)
    path = source / "predictions.csv" if source.is_dir() else source
    table = read_predictions(path)
    provenance: dict[str, Any] = {"split": None, "fold": None}
    if dataset is not None:
        base = Path(dataset) if Path(dataset).is_dir() else Path(dataset).parent
        datalist = load_datalist(dataset)
        items = {str(item["id"]): item for item in datalist.records()}
        table = _with_predicted_class(_with_truth(table, items, path))
        if (path.parent / "masks").is_dir():
            table = _with_measured_masks(table, items, base, path.parent / "masks")
        provenance |= _provenance(table, items, datalist)
        if _has_same_masks(table, items, path):
            provenance["labels_sha256"] = [datalist.labels_sha256]
    if consistency is not None:
        threshold = _malignant_threshold(path)
        table = consistent_table(table, table_classes(table), consistency, threshold)
        rule = asdict(replace(consistency, enabled=True))
        provenance["consistency"] = {**rule, "malignant_threshold": threshold}
    reads = [source, *([] if dataset is None else [dataset])]
    with output_folder(out, "evaluate", reads=reads, overwrite=overwrite) as partial:
        text = table.round(6).to_csv(index=False, lineterminator="\n", float_format="%.10g")
        write_text(partial / "predictions.csv", text)
        details = {"source_sha256": file_sha256(path), **provenance}
        record.write(partial, details)
        write_evaluation(
            partial, provenance=provenance, prevalence=prevalence, seed=seed, resamples=resamples
        )
    logger.info("measured %s", path)
    return Path(out).absolute()


def _malignant_threshold(path: Path) -> float:
    """Return the probability from which a table's findings are not to be touched by the rule."""
    recorded = path.parent / "run.json"
    record = read_json(recorded) if recorded.is_file() else {}
    if record.get("consistency"):
        raise InputError(f"{path} was made with the consistency rule on already")
    thresholds = record.get("class_thresholds")
    if thresholds is None and record.get("operating_point"):
        raise InputError(
            f"{recorded} does not tell the threshold of {record['operating_point']}, which the "
            "consistency rule needs; evaluate with --consistency instead"
        )
    return float((thresholds or {}).get(MALIGNANT, DEFAULT_MALIGNANT_THRESHOLD))


def _with_truth(
    table: pd.DataFrame, items: Mapping[str, Mapping[str, Any]], path: Path
) -> pd.DataFrame:
    def refuse(names: Iterable[str], fault: str, remedy: str) -> None:
        if found := list(names):
            raise InputError(f"{path}: {len(found)} {fault}: {', '.join(found[:5])}; {remedy}")

    ids = table["id"]
    unknown = ids[~ids.isin(items.keys())]
    fault = f"of {len(table)} images are not in the dataset"
    refuse(unknown, fault, "give the dataset that was predicted")
    refuse(ids[ids.duplicated()].unique(), "images have several rows", "give one row for each")
    chosen = [items[name] for name in ids]
    if "fold" in table.columns:
        folds = pd.Series([item["fold"] for item in chosen], index=table.index, dtype=float)
        refuse(
            ids[folds != table["fold"]],
            "images stand in other folds than in the dataset",
            "give the dataset as it was prepared then",
        )
    labels = [item["class_label"] for item in chosen]
    return table.assign(
        true_class=["" if label is None or label < 0 else CLASSES[label] for label in labels],
        group=[str(item["group"]) for item in chosen],
        birads=[str(item["meta"].get("birads", "")) for item in chosen],
    )


def _with_predicted_class(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of another program with the likeliest class, if it names none."""
    classes = table_classes(table)
    if not classes or "predicted_class" in table.columns:
        return table
    likeliest = probability_matrix(table, classes).argmax(axis=1)
    return table.assign(predicted_class=[classes[index] for index in likeliest])


def _with_measured_masks(
    table: pd.DataFrame, items: Mapping[str, Mapping[str, Any]], base: Path, masks: Path
) -> pd.DataFrame:
    labels = {name: items[name]["label"] for name in usable_rows(table)["id"]}
    known = {name: base / label for name, label in labels.items() if label is not None}
    missing = [name for name in known if not (masks / f"{name}.png").is_file()]
    if missing:
        raise InputError(
            f"{masks} lacks the masks of {len(missing)} images: {', '.join(missing[:5])}; expected "
            "<id>.png for each row, all black where nothing was found"
        )
    stated = {name: items[name].get("label_sha256") for name in known}
    rows = [
        _measured(masks / f"{name}.png", known[name], stated[name]) if name in known else {}
        for name in table["id"]
    ]
    measured = pd.DataFrame(rows, index=table.index)
    if "label_sha256" in measured:
        measured["label_sha256"] = measured["label_sha256"].fillna("")
    return table.assign(**{name: measured[name] for name in measured.columns})


def _has_same_masks(
    table: pd.DataFrame, items: Mapping[str, Mapping[str, Any]], path: Path
) -> bool:
    """Return whether a table was measured against a dataset's masks, as far as both tell them.

    Raises:
        InputError: if it was measured against others.
    """
    rows = usable_rows(table)
    if "dice" not in rows:
        return True
    if "label_sha256" not in rows:
        note_without_label_hashes(str(path))
        return False
    found = dict(zip(rows["id"], rows["label_sha256"], strict=True))
    other = [
        name
        for name, sha256 in found.items()
        if sha256 and items[name].get("label_sha256", sha256) != sha256
    ]
    if other:
        raise InputError(
            f"{path} was measured against other masks than those of the dataset: "
            f"{named_cases(other)}. Give the dataset as it was prepared then, or the predicted "
            f"masks in {path.parent / 'masks'}, to measure them anew"
        )
    return True


def _measured(mask: Path, label: Path, stated: str | None) -> dict[str, Any]:
    predicted, true = read_mask(mask), read_mask(label)
    if stated is not None:
        check_mask(true, stated, label)
    if predicted.shape != true.shape:
        raise InputError(f"{mask} has {predicted.shape} pixels, the true mask {true.shape}")
    return {
        **segmentation_scores(predicted, true),
        "lesion_pixels": int(predicted.sum()),
        "lesion_fraction": float(predicted.mean()),
        "true_lesion_pixels": int(true.sum()),
        "true_lesion_fraction": float(true.mean()),
        "label_sha256": mask_sha256(true),
    }


def _provenance(
    table: pd.DataFrame, items: Mapping[str, Mapping[str, Any]], datalist: Datalist
) -> dict[str, Any]:
    chosen = [items[name] for name in table["id"]]
    splits = {_reported_split(item) for item in chosen} - {None}
    leaking = {
        name for split in splits for name in datalist.leaks["parts"].get(split, {}).get("ids", ())
    }
    reported = [item["id"] for item in chosen if _reported_split(item) is not None]
    return {
        **({"datalist": [datalist.name]} if datalist.name else {}),
        "protocol": [datalist.protocol],
        "datalist_sha256": [datalist.sha256],
        "leaks": {
            "count": sum(name in leaking for name in reported),
            "evaluation_images": len(reported),
        }
        if reported
        else None,
        "missing_images": _missing(table, items),
    }


def _reported_split(item: Mapping[str, Any]) -> str | None:
    """Return how the datalist's ``leaks`` call the split that an item is evaluated in."""
    if item["fold"] is not None:
        return f"fold {item['fold']}"
    return str(item["split"]) if item["split"] != "train" else None


def _missing(table: pd.DataFrame, items: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many images of the table's splits are not in it: left out, figures flatter."""
    found = set(table["id"])
    splits = {_reported_split(items[name]) for name in found}
    return sum(
        name not in found and _reported_split(item) in splits and "part_of" not in item["meta"]
        for name, item in items.items()
    )
