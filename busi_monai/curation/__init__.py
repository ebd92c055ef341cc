"""Audit, near-duplicate groups, splits and datalists.

The names are imported when they are first used, so that a command's help needs none of them.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
