"""Pure functions from masks and probabilities to figures, with the empty-mask rules."""

from __future__ import annotations

from busi_monai.metrics.calibration import (
    Reliability,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability,
    rescale_probabilities,
)
from busi_monai.metrics.classification import (
    average_precision,
    benign_malignant_auc,
    classification_scores,
    confusion_matrix,
    roc_auc,
)
from busi_monai.metrics.measurements import LesionSize, lesion_diameters, lesion_size
from busi_monai.metrics.operating_points import (
    ThresholdScores,
    negative_predictive_value,
    positive_predictive_value,
    sensitivity_threshold,
    threshold_scores,
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
    "LesionSize",
    "Reliability",
    "ThresholdScores",
    "average_precision",
    "benign_malignant_auc",
    "brier_score",
    "classification_scores",
    "confusion_matrix",
    "dice",
    "expected_calibration_error",
    "fit_temperature",
    "hausdorff95_px",
    "iou",
    "lesion_box",
    "lesion_diameters",
    "lesion_size",
    "mean_iou",
    "negative_predictive_value",
    "pixel_accuracy",
    "positive_predictive_value",
    "reliability",
    "rescale_probabilities",
    "roc_auc",
    "segmentation_scores",
    "sensitivity_threshold",
    "threshold_scores",
]
