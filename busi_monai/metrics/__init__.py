"""Pure functions from masks and probabilities to figures, with the empty-mask rules."""

from __future__ import annotations

from busi_monai.metrics.calibration import (
    Reliability,
    brier_score,
    expected_calibration_error,
    reliability,
)
from busi_monai.metrics.classification import (
    average_precision,
    benign_malignant_auc,
    classification_scores,
    confusion_matrix,
    roc_auc,
)
from busi_monai.metrics.segmentation import (
    dice,
    hausdorff95_px,
    iou,
    lesion_box,
    mean_iou,
    pixel_accuracy,
    segmentation_scores,
)

__all__ = [
    "Reliability",
    "average_precision",
    "benign_malignant_auc",
    "brier_score",
    "classification_scores",
    "confusion_matrix",
    "dice",
    "expected_calibration_error",
    "hausdorff95_px",
    "iou",
    "lesion_box",
    "mean_iou",
    "pixel_accuracy",
    "reliability",
    "roc_auc",
    "segmentation_scores",
]
