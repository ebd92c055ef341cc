"""Breast ultrasound on MONAI: audited datasets, a multitask U-Net, honest evidence, bundles.

For research use only; not a medical device.

What ``busi_monai.__all__`` names is the interface for Python. Each command of ``busi-monai`` calls
the function of its name. A name is imported when it is first used: torch and MONAI take seconds.

Examples:
    >>> from busi_monai import Predictor                            # doctest: +SKIP
    >>> prediction = Predictor.load("runs/cpu").predict("image.png")  # doctest: +SKIP
    >>> prediction.predicted_class, prediction.mask.shape           # doctest: +SKIP
    ('benign', (471, 562))
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
