"""Measure what a model takes from the marks that a scanner burned into its images.

    python scripts/marks_study.py busi                       # the released weights, test split
    python scripts/marks_study.py busi --model RUN --split reported --fold 0

What it loses where marks are inpainted, on the images in which marks are found, beside what it
loses where as much is inpainted at other places of the lesion's edge: there, the mask of the marks
is turned by 45 degrees about the lesion. And what it sees in normal images with calipers planted
anywhere. Written to
``docs/results/marks/NAME.csv``, from which ``result_tables.py`` makes the page's table; intervals
are 95 %, by bootstrap over groups, and differences are paired.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from table_cells import markdown

from busi_monai.cases import CLASSES
from busi_monai.curation.datalist import load_split
from busi_monai.evaluation import (
    ResampledFigure,
    group_weights,
    percentile_interval,
    resampled_figures,
)
from busi_monai.evaluation.resampling import mean_figure
from busi_monai.imaging import draw_calipers, inpaint_marks, marks_mask
from busi_monai.inference import Predictor
from busi_monai.io.images import read_image, read_mask
from busi_monai.metrics import dice
from busi_monai.transforms import sample_calipers

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "marks"
RESAMPLES = 1000
LEAST = 10  # marked images to say anything of
DRAWS = 5  # calipers planted for each normal image, one after the other
LESIONS = {
    "lesion_dice": "lesion Dice",
    "auc_benign_malignant": "AUC, benign against malignant",
    "accuracy": "accuracy",
}
NORMALS = {
    "clean": "normals left clean",
    "lesion_called": "normals called benign or malignant",
    "p_normal": "mean p(normal)",
    "p_malignant": "mean p(malignant)",
}
HEADER = ("what", "figure", "n", "as found", "changed", "difference, paired")

Pixels = NDArray[np.float32]
Item = Mapping[str, Any]
Change = Callable[[Pixels, Item], Pixels]


def predicted(predictor: Predictor, items: Sequence[Item], change: Change) -> pd.DataFrame:
    """Return a row as in ``predictions.csv`` for each image after a change of its pixels."""
    rows = []
    for item in items:
        found = predictor.predict(change(read_image(item["image"]).pixels, item))
        row: dict[str, Any] = {
            "id": item["id"],
            "group": item["group"],
            "true_class": CLASSES[item["class_label"]],
            "predicted_class": found.predicted_class,
            "lesion_pixels": found.lesion_pixels,
            **{f"p_{name}": value for name, value in found.probabilities.items()},
        }
        if "label" in item:
            truth = read_mask(item["label"])
            row |= {"dice": dice(found.mask, truth), "true_lesion_pixels": int(truth.sum())}
        rows.append(row)
    return pd.DataFrame(rows)


def as_found(pixels: Pixels, item: Item) -> Pixels:
    """Return the image as it is."""
    return pixels


def without_marks(pixels: Pixels, item: Item) -> Pixels:
    """Return the image with its marks inpainted."""
    return inpaint_marks(pixels, marks_mask(pixels))


def turned_inpainting(pixels: Pixels, item: Item) -> Pixels:
    """Return the image with its marks, and as much inpainted at 45 degrees from them."""
    mask = marks_mask(pixels)
    height, width = mask.shape
    centre = width / 2, height / 2
    if "label" in item and (truth := read_mask(item["label"])).any():
        rows, columns = np.nonzero(truth)
        centre = float(columns.mean()), float(rows.mean())
    turn = cv2.getRotationMatrix2D(centre, 45, 1)
    turned = cv2.warpAffine(mask.astype(np.uint8), turn, (width, height), flags=cv2.INTER_NEAREST)
    return inpaint_marks(pixels, (turned > 0) & ~mask)


def planted(seed: int) -> Change:
    """Return what plants calipers anywhere; each call draws others."""
    state = np.random.RandomState(seed)
    return lambda pixels, item: draw_calipers(pixels, sample_calipers(state))


def normal_figures(rows: pd.DataFrame, weights: NDArray[np.float64]) -> dict[str, ResampledFigure]:
    """Return the figures of ``NORMALS``; ``rows`` are normal images, several of one averaged."""
    values = pd.DataFrame(
        {
            "id": rows["id"],
            "clean": rows["lesion_pixels"] == 0,
            "lesion_called": rows["predicted_class"] != CLASSES[0],
            "p_normal": rows["p_normal"],
            "p_malignant": rows["p_malignant"],
        }
    )
    means = values.groupby("id", sort=False).mean().astype(float)
    return {name: mean_figure(weights, means[name].to_numpy()) for name in NORMALS}


def compared(
    what: str,
    titles: Mapping[str, str],
    before: Mapping[str, ResampledFigure],
    after: Mapping[str, ResampledFigure],
) -> list[tuple[str, ...]]:
    """Return a line for each figure that is defined, with its paired difference."""
    lines = []
    for name, title in titles.items():
        one, other = before[name], after[name]
        if np.isnan(one.value) or np.isnan(other.value):
            continue
        low, high = percentile_interval(other.samples - one.samples)
        change = f"{other.value - one.value:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append((what, title, str(one.n), f"{one.value:.3f}", f"{other.value:.3f}", change))
    return lines


def study(predictor: Predictor, items: Sequence[Item], seed: int) -> list[Any]:
    """Return the lines of the table."""
    marked = [item for item in items if marks_mask(read_image(item["image"]).pixels).any()]
    lines = []
    if len(marked) >= LEAST:
        weights = group_weights([item["group"] for item in marked], RESAMPLES, seed)
        before = resampled_figures(predicted(predictor, marked, as_found), weights)
        for what, change in (
            ("marks inpainted", without_marks),
            ("as much inpainted elsewhere", turned_inpainting),
        ):
            after = resampled_figures(predicted(predictor, marked, change), weights)
            lines += compared(what, LESIONS, before, after)
    normals = [item for item in items if item["class_label"] == 0]
    if normals:
        weights = group_weights([item["group"] for item in normals], RESAMPLES, seed)
        clean = normal_figures(predicted(predictor, normals, as_found), weights)
        change = planted(seed)
        drawn = pd.concat([predicted(predictor, normals, change) for _ in range(DRAWS)])
        lines += compared("calipers planted", NORMALS, clean, normal_figures(drawn, weights))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("prepared", type=Path, help="a prepared dataset")
    parser.add_argument("--model", help="a bundle's name, or a folder; by default the released one")
    parser.add_argument("--split", default="test", help="test, reported or validation")
    parser.add_argument("--fold", type=int)
    parser.add_argument("--name", help="of the table; by default that of the prepared folder")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    items = load_split(given.prepared, given.split, fold=given.fold)
    lines = study(Predictor.load(given.model, device="cpu"), items, given.seed)
    name = given.name or given.prepared.resolve().name
    RESULTS.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(lines, columns=HEADER).to_csv(RESULTS / f"{name}.csv", index=False)
    print(f"{len(items)} images\n\n{markdown(HEADER, lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
