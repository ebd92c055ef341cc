from .audit import Audit, audit_dataset
from .audit_report import write_audit
from .datalist import (
    Datalist,
    find_split,
    items_of_split,
    load_datalist,
    load_split,
    shipped_splits,
)
from .id_lists import read_known_images
from .label_hashes import (
    LABEL_HASHES,
    check_same_labels,
    joined_label_hashes,
    named_cases,
    note_without_label_hashes,
    write_label_hashes,
)
from .near_duplicates import NearDuplicates, find_near_duplicates
from .prepare import PrepareSummary, prepare_dataset
from .protocols import DEDUP, MISSING_MASK, MULTI_MASK, PROTOCOLS, PrepareOptions
from .show import choose_items, draw_charts, draw_sheet
from .verify import (
    SharedImages,
    VerifyReport,
    check_different,
    find_shared_images,
    verify_prepared,
)

__all__ = [
    "DEDUP",
    "LABEL_HASHES",
    "MISSING_MASK",
    "MULTI_MASK",
    "PROTOCOLS",
    "Audit",
    "Datalist",
    "NearDuplicates",
    "PrepareOptions",
    "PrepareSummary",
    "SharedImages",
    "VerifyReport",
    "audit_dataset",
    "check_different",
    "check_same_labels",
    "choose_items",
    "draw_charts",
    "draw_sheet",
    "find_near_duplicates",
    "find_shared_images",
    "find_split",
    "items_of_split",
    "joined_label_hashes",
    "load_datalist",
    "load_split",
    "named_cases",
    "note_without_label_hashes",
    "prepare_dataset",
    "read_known_images",
    "shipped_splits",
    "verify_prepared",
    "write_audit",
    "write_label_hashes",
]
