"""One reader per public layout."""

from busi_monai.datasets.listing import Listing, Reader, natural_key, visible_files
from busi_monai.datasets.masks import clean_mask, individual_masks, lesion_mask
from busi_monai.datasets.registry import READERS, detect_layout, opened_dataset, read_dataset

__all__ = [
    "READERS",
    "Listing",
    "Reader",
    "clean_mask",
    "detect_layout",
    "individual_masks",
    "lesion_mask",
    "natural_key",
    "opened_dataset",
    "read_dataset",
    "visible_files",
]
