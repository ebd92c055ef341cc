"""One reader per public layout, and the phantom generator."""

from busi_monai.datasets.listing import Listing, Reader, natural_key, visible_files
from busi_monai.datasets.masks import clean_mask, individual_masks, lesion_mask
from busi_monai.datasets.phantom import Phantom, draw_phantom
from busi_monai.datasets.phantom_dataset import planted_defects, write_phantom_dataset
from busi_monai.datasets.phantom_layouts import LAYOUT_WRITERS
from busi_monai.datasets.registry import READERS, detect_layout, opened_dataset, read_dataset
from busi_monai.datasets.submitted_labels import (
    LabelImport,
    SubmittedLabel,
    SubmittedLabels,
    import_submitted_labels,
    read_submitted_labels,
)

__all__ = [
    "LAYOUT_WRITERS",
    "READERS",
    "LabelImport",
    "Listing",
    "Phantom",
    "Reader",
    "SubmittedLabel",
    "SubmittedLabels",
    "clean_mask",
    "detect_layout",
    "draw_phantom",
    "import_submitted_labels",
    "individual_masks",
    "lesion_mask",
    "natural_key",
    "opened_dataset",
    "planted_defects",
    "read_dataset",
    "read_submitted_labels",
    "visible_files",
    "write_phantom_dataset",
]
