"""Breast ultrasound on MONAI: audited datasets, a multitask U-Net, honest evidence, bundles.

For research use only; not a medical device.

Examples:
    >>> from busi_monai import Predictor                            # doctest: +SKIP
    >>> prediction = Predictor.load("runs/cpu").predict("image.png")  # doctest: +SKIP
    >>> prediction.predicted_class, prediction.mask.shape           # doctest: +SKIP
    ('benign', (471, 562))
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busi_monai.inference import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "__version__"]

try:
    __version__ = version("busi-monai")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    # torch and monai take seconds to import: only when a predictor is asked for
    if name in {"Predictor", "Prediction"}:
        from busi_monai import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
