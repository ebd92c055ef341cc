"""MONAI dictionary transforms: from a file to the network's input, and back to native size."""

from __future__ import annotations

from busi_monai.transforms.augmentation import training_augmentation
from busi_monai.transforms.batches import collate_items, prepare_batch, prepare_batch_with_lesion
from busi_monai.transforms.lesion_crop import CropToLesiond, RandomCropToLesiond
from busi_monai.transforms.loading import LoadLesionMaskd, LoadUltrasoundd
from busi_monai.transforms.monai_label import MONAILabelResultd
from busi_monai.transforms.postprocessing import (
    MaskClassConsistencyd,
    choose_class,
    prediction_postprocessing,
)
from busi_monai.transforms.preprocessing import FitToNetworkd, prediction_preprocessing

__all__ = [
    "CropToLesiond",
    "FitToNetworkd",
    "LoadLesionMaskd",
    "LoadUltrasoundd",
    "MONAILabelResultd",
    "MaskClassConsistencyd",
    "RandomCropToLesiond",
    "choose_class",
    "collate_items",
    "prediction_postprocessing",
    "prediction_preprocessing",
    "prepare_batch",
    "prepare_batch_with_lesion",
    "training_augmentation",
]
