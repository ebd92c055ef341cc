"""The mask↔class consistency rule on a table of predictions that was made without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from busi_monai.cases import CLASSES, MALIGNANT, NORMAL
from busi_monai.errors import InputError
from busi_monai.imaging import DEFAULT_MALIGNANT_THRESHOLD
from busi_monai.settings import Consistency

__all__ = ["consistent_table"]

NEEDED = (
    "lesion_pixels", "lesion_fraction", "true_lesion_fraction", "dice", "predicted_class",
    f"p_{NORMAL}", f"p_{MALIGNANT}",
)  # fmt: skip
BOX = ("box_x", "box_y", "box_w", "box_h")


def consistent_table(
    table: pd.DataFrame,
    classes: Sequence[str] = CLASSES,
    rule: Consistency | None = None,
    malignant_threshold: float = DEFAULT_MALIGNANT_THRESHOLD,
) -> pd.DataFrame:
    """Return what a table would be had the rule been on when it was made.

    Classes become normal where the mask says so, and masks empty where the class does, with the
    scores of an empty mask. Nothing else is known of another mask, and nothing else is needed.

    Args:
        table: rows as in ``predictions.csv``; those with an ``error``, and those whose mask was not
            measured, stay as they are.
        classes: the classes that have probability columns.
        rule: the areas and switches; by default ``Consistency()``.
        malignant_threshold: calibrated probability from which a row must not be touched.

    Raises:
        InputError: if the system cannot have the rule (no normal or malignant class, no masks), or
            a column is missing that the rule or the scores need.
    """
    if NORMAL not in classes or MALIGNANT not in classes:
        known = ", ".join(classes) or "no class"
        raise InputError(f"the consistency rule needs normal and malignant; the table has {known}")
    rule = rule or Consistency()
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise InputError(
            f"the consistency rule needs the columns {', '.join(missing)}, which the table lacks; "
            "evaluate with --consistency instead"
        )
    measured = table["dice"].notna()
    if not measured.any():
        raise InputError("the consistency rule needs masks, and none was measured in the table")
    usable = table["error"].fillna("").astype(str) == "" if "error" in table else True
    open_ = usable & measured & (table[f"p_{MALIGNANT}"] < malignant_threshold)
    found = [
        rule.applied(name, fraction, p_normal) if may_change else (name, False)
        for name, fraction, p_normal, may_change in zip(
            table["predicted_class"],
            table["lesion_fraction"],
            table[f"p_{NORMAL}"],
            open_,
            strict=True,
        )
    ]
    emptied = np.array([empty for _, empty in found], dtype=bool)
    changed = table.assign(predicted_class=[name for name, _ in found])
    true = table["true_lesion_fraction"].to_numpy(dtype=float)
    for name, values in {**_scores_of_an_empty_mask(true), "lesion_fraction": 0 * true}.items():
        if name in changed:
            changed[name] = np.where(emptied, values, changed[name].to_numpy(dtype=float))
    changed["lesion_pixels"] = np.where(emptied, 0, changed["lesion_pixels"])
    for name in BOX:
        if name in changed:
            changed[name] = changed[name].mask(emptied)
    return changed


def _scores_of_an_empty_mask(
    true: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return an empty mask's scores by the true lesion's part of the image, NaN if unknown."""
    none = np.where(np.isnan(true), np.nan, (true == 0).astype(float))
    return {
        "dice": none,
        "iou": none,
        "mean_iou": (none + 1 - true) / 2,
        "pixel_accuracy": 1 - true,
        "hd95_px": np.where(true == 0, 0.0, np.nan),
    }
