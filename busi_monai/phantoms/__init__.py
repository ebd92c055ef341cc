"""Synthetic breast ultrasound: phantoms, their defects, and datasets of them in public layouts."""

from busi_monai.phantoms.dataset import planted_defects, write_phantom_dataset
from busi_monai.phantoms.drawing import Phantom, draw_phantom
from busi_monai.phantoms.layouts import LAYOUT_WRITERS

__all__ = [
    "LAYOUT_WRITERS",
    "Phantom",
    "draw_phantom",
    "planted_defects",
    "write_phantom_dataset",
]
