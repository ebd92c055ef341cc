"""MONAI dictionary transforms: from a file to the network's input, and back to native size."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
