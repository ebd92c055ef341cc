"""Pure functions from masks and probabilities to figures, with the empty-mask rules."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
