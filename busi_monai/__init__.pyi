from .api import __version__
from .api.datasets import audit, list_datasets, prepare, verify
from .api.models import compare, evaluate, list_encoders, train
from .bundle import Bundle
from .inference import Prediction, Predictor, predict

__all__ = [
    "Bundle",
    "Prediction",
    "Predictor",
    "__version__",
    "audit",
    "compare",
    "evaluate",
    "list_datasets",
    "list_encoders",
    "predict",
    "prepare",
    "train",
    "verify",
]
