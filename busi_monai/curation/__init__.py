"""Audit, near-duplicate groups, splits and datalists.

The names are imported when they are first used, so that a command's help needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busi_monai.curation.audit import Audit, audit_dataset, write_audit
    from busi_monai.curation.datalist import Datalist, load_datalist, load_part
    from busi_monai.curation.near_duplicates import NearDuplicates, find_near_duplicates
    from busi_monai.curation.prepare import PrepareOptions, PrepareSummary, prepare_dataset
    from busi_monai.curation.protocols import PROTOCOLS
    from busi_monai.curation.shared_images import SharedImages, find_shared_images
    from busi_monai.curation.verify import VerifyReport, verify_prepared

__all__ = [
    "PROTOCOLS",
    "Audit",
    "Datalist",
    "NearDuplicates",
    "PrepareOptions",
    "PrepareSummary",
    "SharedImages",
    "VerifyReport",
    "audit_dataset",
    "find_near_duplicates",
    "find_shared_images",
    "load_datalist",
    "load_part",
    "prepare_dataset",
    "verify_prepared",
    "write_audit",
]

_HOMES = {
    "PROTOCOLS": "protocols",
    "Audit": "audit",
    "Datalist": "datalist",
    "NearDuplicates": "near_duplicates",
    "PrepareOptions": "prepare",
    "PrepareSummary": "prepare",
    "SharedImages": "shared_images",
    "VerifyReport": "verify",
    "audit_dataset": "audit",
    "find_near_duplicates": "near_duplicates",
    "find_shared_images": "shared_images",
    "load_datalist": "datalist",
    "load_part": "datalist",
    "prepare_dataset": "prepare",
    "verify_prepared": "verify",
    "write_audit": "audit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
