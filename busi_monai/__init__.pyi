from .api import (
    __version__,
    audit,
    compare,
    evaluate,
    list_datasets,
    list_encoders,
    predict,
    prepare,
    train,
    verify,
)
from .bundle import Bundle
from .inference import Prediction, Predictor

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
