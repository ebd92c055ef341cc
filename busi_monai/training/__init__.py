"""Training: what ``train.yaml`` names, runs and their folders, stages, releases."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
