from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.spatial.distance import cdist
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from busi_monai.metrics import dice, lesion_box, segmentation_scores

SIZE = (23, 37)
EMPTY = np.zeros(SIZE, dtype=bool)
FULL = ~EMPTY
QUARTER = EMPTY.copy()
QUARTER.flat[: QUARTER.size // 4] = True
PART = QUARTER.mean()


def _blobs(seed: int, share: float) -> np.ndarray:
    """Smooth random masks that fill about ``share`` of the image."""
    rng = np.random.default_rng(seed)
    field = np.kron(rng.random((6, 10)), np.ones((4, 4)))[: SIZE[0], : SIZE[1]]
    return field + 0.3 * rng.random(SIZE) > np.quantile(field, 1 - share) + 0.15


PAIRS = [
    pytest.param(_blobs(seed, share), _blobs(other, share), id=f"{seed}-{other}-{share}")
    for seed in range(3)
    for other in (seed, 10, 11)
    for share in (0.05, 0.3, 0.8)
]


# pred, true, dice, iou, mean_iou, pixel_accuracy, hd95_px: the table of the module's docstring
TABLE = {
    "both empty": (EMPTY, EMPTY, 1, 1, 1, 1, 0),
    "predicted empty only": (EMPTY, QUARTER, 0, 0, (1 - PART) / 2, 1 - PART, math.nan),
    "true empty only": (QUARTER, EMPTY, 0, 0, (1 - PART) / 2, 1 - PART, math.nan),
    "both full": (FULL, FULL, 1, 1, 1, 1, 0),
    "full against empty": (FULL, EMPTY, 0, 0, 0, 0, math.nan),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_the_empty_mask_table(row: tuple[object, ...]) -> None:
    pred, true, *expected = row
    scores = segmentation_scores(pred, true)
    names = ["dice", "iou", "mean_iou", "pixel_accuracy", "hd95_px"]
    assert list(scores) == names
    assert list(scores.values()) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("pred", "true"), PAIRS)
def test_overlaps_equal_scikit_learns(pred: np.ndarray, true: np.ndarray) -> None:
    flat = true.ravel(), pred.ravel()
    scores = segmentation_scores(pred, true)
    assert scores["dice"] == dice(pred, true) == pytest.approx(f1_score(*flat))
    assert scores["iou"] == pytest.approx(jaccard_score(*flat))
    assert scores["mean_iou"] == pytest.approx(jaccard_score(*flat, average="macro"))
    assert scores["pixel_accuracy"] == pytest.approx(accuracy_score(*flat))


def _outline_points(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)


@pytest.mark.parametrize(("pred", "true"), PAIRS)
def test_hausdorff_equals_all_pairs_of_outline_points(pred: np.ndarray, true: np.ndarray) -> None:
    distances = cdist(_outline_points(pred), _outline_points(true))
    there, back = distances.min(axis=1), distances.min(axis=0)
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert segmentation_scores(pred, true)["hd95_px"] == pytest.approx(expected)


@pytest.mark.parametrize(("pred", "true"), PAIRS)
def test_hausdorff_equals_monais(pred: np.ndarray, true: np.ndarray) -> None:
    tensors = [torch.from_numpy(mask)[None, None] for mask in (pred, true)]
    expected = compute_hausdorff_distance(*tensors, include_background=True, percentile=95)
    assert segmentation_scores(pred, true)["hd95_px"] == pytest.approx(float(expected), abs=1e-4)


def test_hausdorff_counts_pixels_along_both_axes() -> None:
    one, other = np.zeros((20, 30)), np.zeros((20, 30))
    one[2, 4] = 1
    other[5, 8] = 1
    assert segmentation_scores(one, other)["hd95_px"] == 5
    assert segmentation_scores(other, one)["hd95_px"] == 5


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_every_type_of_zero_and_one_gives_the_same(dtype: type) -> None:
    pred, true = _blobs(0, 0.3), _blobs(1, 0.3)
    assert segmentation_scores(pred.astype(dtype), true.astype(dtype)) == segmentation_scores(
        pred, true
    )


@pytest.mark.parametrize(
    ("pred", "true", "message"),
    [
        (np.zeros((4, 5)), np.zeros((5, 4)), r"pred has shape \(4, 5\), true \(5, 4\)"),
        (np.zeros((1, 4, 5)), np.zeros((4, 5)), r"pred: expected a mask of shape \(H, W\)"),
        (np.zeros((4, 5)), np.full((4, 5), 255), "true: expected bool or 0 and 1, got .*255"),
        (np.full((4, 5), 0.7), np.zeros((4, 5)), "pred: expected bool or 0 and 1.*threshold"),
        (np.zeros((0, 5)), np.zeros((0, 5)), "pred: expected a mask"),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(
    pred: np.ndarray, true: np.ndarray, message: str
) -> None:
    for score in (dice, segmentation_scores):
        with pytest.raises(ValueError, match=message):
            score(pred, true)


def test_the_box_holds_the_lesion_tightly() -> None:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[3:9, 12] = 1
    mask[5, 10:15] = 1
    assert lesion_box(mask) == (10, 3, 5, 6)
    assert lesion_box(np.ones((4, 7))) == (0, 0, 7, 4)
    assert lesion_box(np.zeros((4, 7))) is None
