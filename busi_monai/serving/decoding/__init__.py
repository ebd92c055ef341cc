"""Strangers' images are decoded in a process of its own, which may crash, hang or grow.

Decoders are C and C++: some abort the process for a few wrong bytes, or never come back. Here such
a file costs its own answer and no other one's.
"""

from __future__ import annotations

from busi_monai.serving.decoding.pool import DecodingPool

__all__ = ["DecodingPool"]
