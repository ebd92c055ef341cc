"""The registry of layouts, and the one way to read a dataset of any of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from busi_monai.cases import DatasetIssue
from busi_monai.datasets.busi import BUSI
from busi_monai.datasets.folder import FOLDER
from busi_monai.datasets.listing import Listing, Reader, folders_in, natural_key
from busi_monai.datasets.table_layouts import BREAST_LESIONS_USG, BUS_BRA, BUS_UCLM
from busi_monai.errors import InputError
from busi_monai.io.archives import ARCHIVE_SUFFIXES, is_archive, unpacked

__all__ = ["READERS", "opened_dataset", "read_dataset"]

READERS: dict[str, Reader] = {
    reader.name: reader for reader in (BUSI, BUS_BRA, BUS_UCLM, BREAST_LESIONS_USG, FOLDER)
}
"""Readers by name; detection tries the most particular layout first, the plain folder last."""

MAX_DEPTH = 3
"""How many folders below the one asked for a dataset is looked for."""

_DETECTION_ORDER = ("bus_bra", "bus_uclm", "breast_lesions_usg", "busi", "folder")


def read_dataset(root: str | Path, layout: str = "auto") -> Listing:
    """List the cases of a dataset by its names and tables; no pixel is looked at.

    Args:
        root: the dataset's folder, or one that holds such a folder, at most ``MAX_DEPTH`` below.
        layout: a name in ``READERS`` (dashes pass for underscores), or ``"auto"``.

    Raises:
        InputError: if the folder is missing, empty, of no known or another layout, holds several
            datasets, or not one image.
    """
    name, folder = _locate(Path(root), layout)
    listing = READERS[name].read(folder)
    if not listing.cases:
        reasons = "; ".join(p.message for p in listing.problems[:3]) or "no images"
        raise InputError(f"{folder}: no usable image in the layout {name!r}: {reasons}")
    return listing


@contextlib.contextmanager
def opened_dataset(root: str | Path, layout: str = "auto") -> Iterator[Listing]:
    """List the cases of a dataset's folder or archive, whose files are there while the block runs.

    Of an archive, the members that are refused are among the problems; see ``unpacked``.
    """
    if not is_archive(root):
        yield read_dataset(root, layout)
        return
    with unpacked(root, tables=True) as archive:
        listing = read_dataset(archive.folder, layout)
        refused = [DatasetIssue("", name, "refused_member", why) for name, why in archive.refused]
        yield replace(
            listing, problems=[*listing.problems, *refused], left_out=dict(archive.left_out)
        )


def _locate(root: Path, layout: str) -> tuple[str, Path]:
    name = layout.replace("-", "_").lower()
    if name != "auto" and name not in READERS:
        raise InputError(f"unknown layout {layout!r}; expected auto, {', '.join(READERS)}")
    names = _DETECTION_ORDER if name == "auto" else (name,)
    if not root.exists():
        raise InputError(f"{root} does not exist; expected a dataset's folder")
    if not root.is_dir():
        raise InputError(
            f"{root} is a file; expected a dataset's folder, or an archive of one "
            f"({', '.join(ARCHIVE_SUFFIXES)})"
        )
    inside = sorted(root.iterdir(), key=natural_key)
    if not inside:
        raise InputError(f"{root} is empty; expected a dataset's folder")
    for name in names:
        if READERS[name].matches(root):
            return name, root
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [child for folder in level for child in folders_in(folder)]
        found = [
            (next(name for name in names if READERS[name].matches(child)), child)
            for child in level
            if any(READERS[name].matches(child) for name in names)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            folders = ", ".join(
                f"{path.relative_to(root).as_posix()} ({name})" for name, path in found
            )
            raise InputError(f"{root} holds several datasets: {folders}; name one of them")
    wanted = "; ".join(f"{name}: {READERS[name].looks_like}" for name in names)
    shown = ", ".join(path.name for path in inside[:8])
    raise InputError(f"{root} has no known layout. Looked for {wanted}. Found {shown}")
