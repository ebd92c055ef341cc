"""Images, DICOM files, videos and archives: how they are read, and the limits of what is read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
