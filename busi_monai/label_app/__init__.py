"""The MONAI Label app: proposals for annotators, the next image to label, training on labels.

``app``, ``datastore``, ``infer``, ``strategies`` and ``train`` are classes of MONAI Label and need
it; the other modules do not.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
