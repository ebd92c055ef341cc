"""Bundles: opening and writing them, what they were trained on, their configurations."""

from busi_monai.bundle.bundle import Bundle

__all__ = ["Bundle"]
