from .dataset import planted_defects, write_phantom_dataset
from .drawing import Phantom, draw_phantom
from .layouts import LAYOUT_WRITERS

__all__ = [
    "LAYOUT_WRITERS",
    "Phantom",
    "draw_phantom",
    "planted_defects",
    "write_phantom_dataset",
]
