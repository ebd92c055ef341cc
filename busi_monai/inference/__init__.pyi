from .dicom_objects import (
    ModelIdentity,
    check_dicom_support,
    report_object,
    segmentation_object,
    source_reference,
    writing_objects,
)
from .engines import ENGINES, EngineChoice
from .ensembles import refuse_seen_images, write_ensemble
from .export import EXPORT_FORMATS, ExportReport, export_bundle
from .folders import PredictSummary, predict
from .formats import PREDICTION_FORMATS, FurtherFormats, write_nifti_mask
from .handlers import PredictionsSaver
from .inferers import FlipAveragingInferer, PlainInferer, class_heat_map, prediction_inferer
from .inputs import FoundImages, ImageScan, find_images, frame_id, scan_images
from .overlays import draw_outlines, draw_overlay
from .prediction import Prediction, Uncertainty, disagreement
from .predictor import Predictor
from .web_export import export_web
from .writers import (
    PREDICTIONS_CSV,
    PredictionsFolder,
    Truth,
    prediction_cells,
    prediction_columns,
    prediction_row,
)

__all__ = [
    "ENGINES",
    "EXPORT_FORMATS",
    "PREDICTIONS_CSV",
    "PREDICTION_FORMATS",
    "EngineChoice",
    "ExportReport",
    "FlipAveragingInferer",
    "FoundImages",
    "FurtherFormats",
    "ImageScan",
    "ModelIdentity",
    "PlainInferer",
    "PredictSummary",
    "Prediction",
    "PredictionsFolder",
    "PredictionsSaver",
    "Predictor",
    "Truth",
    "Uncertainty",
    "check_dicom_support",
    "class_heat_map",
    "disagreement",
    "draw_outlines",
    "draw_overlay",
    "export_bundle",
    "export_web",
    "find_images",
    "frame_id",
    "predict",
    "prediction_cells",
    "prediction_columns",
    "prediction_inferer",
    "prediction_row",
    "refuse_seen_images",
    "report_object",
    "scan_images",
    "segmentation_object",
    "source_reference",
    "write_ensemble",
    "write_nifti_mask",
    "writing_objects",
]
