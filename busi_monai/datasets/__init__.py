"""One reader per public layout, and the phantom generator."""

from busi_monai.datasets.listing import Listing, Reader, natural_key
from busi_monai.datasets.masks import clean_mask, individual_masks, lesion_mask
from busi_monai.datasets.phantom import Phantom, draw_phantom
from busi_monai.datasets.phantom_dataset import planted_defects, write_phantom_dataset
from busi_monai.datasets.phantom_layouts import LAYOUT_WRITERS
from busi_monai.datasets.registry import READERS, detect_layout, read_dataset

__all__ = [
    "LAYOUT_WRITERS",
    "READERS",
    "Listing",
    "Phantom",
    "Reader",
    "clean_mask",
    "detect_layout",
    "draw_phantom",
    "individual_masks",
    "lesion_mask",
    "natural_key",
    "planted_defects",
    "read_dataset",
    "write_phantom_dataset",
]
