from .appearance import sample_calipers
from .augmentation import TrainingTensorsd, training_augmentation
from .batches import MISSING_CLASS, collate_items, prepare_batch, prepare_batch_with_lesion
from .lesion_crop import CropToLesiond, RandomCropToLesiond
from .loading import LoadLesionMaskd, LoadUltrasoundd, check_mask
from .postprocessing import MONAILabelResultd, prediction_postprocessing
from .preprocessing import FitToNetworkd, KeepNativeLabeld, prediction_preprocessing

__all__ = [
    "MISSING_CLASS",
    "CropToLesiond",
    "FitToNetworkd",
    "KeepNativeLabeld",
    "LoadLesionMaskd",
    "LoadUltrasoundd",
    "MONAILabelResultd",
    "RandomCropToLesiond",
    "TrainingTensorsd",
    "check_mask",
    "collate_items",
    "prediction_postprocessing",
    "prediction_preprocessing",
    "prepare_batch",
    "prepare_batch_with_lesion",
    "sample_calipers",
    "training_augmentation",
]
