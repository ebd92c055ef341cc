"""The network beside the radiologists who read the same images: BI-RADS categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.cases import CLASSES
from busi_monai.evaluation.resampling import ResampledFigure, weighted_auc, weighted_mean

__all__ = ["BIRADS_ORDER", "SUSPICIOUS", "birads_figures"]

BIRADS_ORDER = ("1", "2", "3", "4", "4a", "4b", "4c", "5")
"""Categories by rising suspicion (ACR BI-RADS Atlas, 5th edition, 2013).

0 (unfinished) and 6 (known malignancy) say nothing of that kind. A bare 4 stands below its parts.
"""

SUSPICIOUS = "4"
"""From this category on, a biopsy is advised."""

MALIGNANT = CLASSES[-1]

Floats = NDArray[np.float64]


def birads_figures(
    rows: pd.DataFrame, weights: Floats, classes: Sequence[str] = CLASSES
) -> dict[str, dict[str, Any]]:
    """Return what BI-RADS says of malignancy, and the network on the same images.

    Args:
        rows: N rows with ``true_class``, ``p_malignant`` and, where it is known, ``birads``.
        weights: (R, N), how often each resample holds each row.
        classes: the classes that have probability columns.

    Returns:
        ``auc`` of the categories against the true class, their ``sensitivity`` and ``specificity``
        from category 4 on, ``network_auc`` of p_malignant, and ``difference`` (network minus
        BI-RADS, paired), each as ``{value, low, high, n}``; nothing if no image has a category.
    """
    if "birads" not in rows.columns or MALIGNANT not in classes:
        return {}
    categories = rows["birads"].astype(str).str.lower().str.removesuffix(".0")
    known = (categories.isin(BIRADS_ORDER) & rows["true_class"].isin(classes)).to_numpy()
    if not known.any():
        return {}
    rank = np.array([float(BIRADS_ORDER.index(name)) for name in categories[known]])
    malignant = (rows["true_class"] == MALIGNANT).to_numpy()[known]
    probability = rows[f"p_{MALIGNANT}"].to_numpy(dtype=float)[known]
    weights = np.vstack([np.ones(len(rank)), weights[:, known]])  # the images as they are first
    suspected = (rank >= BIRADS_ORDER.index(SUSPICIOUS)).astype(float)
    auc, network = (weighted_auc(weights, score, malignant) for score in (rank, probability))
    found = {
        "auc": (auc, len(rank)),
        "sensitivity": _share(weights, suspected, malignant),
        "specificity": _share(weights, 1 - suspected, ~malignant),
        "network_auc": (network, len(rank)),
        "difference": (network - auc, len(rank)),
    }
    return {
        name: ResampledFigure(float(values[0]), values[1:], n).as_dict()
        for name, (values, n) in found.items()
    }


def _share(weights: Floats, values: Floats, members: NDArray[np.bool_]) -> tuple[Floats, int]:
    return weighted_mean(weights, np.where(members, values, math.nan)), int(members.sum())
