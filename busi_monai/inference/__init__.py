"""The only way from image to prediction, and what is written of it."""

from busi_monai.inference.ensembles import refuse_seen_images, write_ensemble
from busi_monai.inference.export import EXPORT_FORMATS, ExportReport, export_bundle_network
from busi_monai.inference.folders import PredictSummary, predict_to_folder
from busi_monai.inference.formats import PREDICTION_FORMATS, FurtherFormats, write_nifti_mask
from busi_monai.inference.handlers import PredictionsSaver
from busi_monai.inference.inferers import FlipAveragingInferer, PlainInferer, prediction_inferer
from busi_monai.inference.inputs import (
    FoundImages,
    ImageScan,
    find_images,
    scan_images,
)
from busi_monai.inference.overlays import draw_outlines, draw_overlay
from busi_monai.inference.prediction import Prediction
from busi_monai.inference.predictor import Predictor
from busi_monai.inference.uncertainty import Uncertainty, disagreement
from busi_monai.inference.writers import PredictionsFolder, Truth, prediction_columns
from busi_monai.io.archives import left_out_sentence

__all__ = [
    "EXPORT_FORMATS",
    "PREDICTION_FORMATS",
    "ExportReport",
    "FlipAveragingInferer",
    "FoundImages",
    "FurtherFormats",
    "ImageScan",
    "PlainInferer",
    "PredictSummary",
    "Prediction",
    "PredictionsFolder",
    "PredictionsSaver",
    "Predictor",
    "Truth",
    "Uncertainty",
    "disagreement",
    "draw_outlines",
    "draw_overlay",
    "export_bundle_network",
    "find_images",
    "left_out_sentence",
    "predict_to_folder",
    "prediction_columns",
    "prediction_inferer",
    "refuse_seen_images",
    "scan_images",
    "write_ensemble",
    "write_nifti_mask",
]
