from .folder import PROVENANCE_COLUMNS
from .listing import Listing, Reader, index_images, known_class, natural_key, visible_files
from .masks import case_mask, clean_mask, individual_masks, lesion_mask
from .registry import READERS, opened_dataset, read_dataset
from .table_layouts import BUS_BRA_FOLDS, BUS_BRA_TABLE, BUS_UCLM_TABLE
from .tables import read_lines

__all__ = [
    "BUS_BRA_FOLDS",
    "BUS_BRA_TABLE",
    "BUS_UCLM_TABLE",
    "PROVENANCE_COLUMNS",
    "READERS",
    "Listing",
    "Reader",
    "case_mask",
    "clean_mask",
    "index_images",
    "individual_masks",
    "known_class",
    "lesion_mask",
    "natural_key",
    "opened_dataset",
    "read_dataset",
    "read_lines",
    "visible_files",
]
