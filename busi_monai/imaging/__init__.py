"""Plain functions on arrays, by NumPy and OpenCV: neither torch nor MONAI is imported here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
