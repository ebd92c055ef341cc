"""Synthetic breast ultrasound: phantoms, their defects, and datasets of them in public layouts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
