"""Writing a whole phantom dataset, on request with planted defects and a record of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.outputs import HIDDEN_RECORD, output_folder
from busi_monai.phantoms.defects import plant_defects
from busi_monai.phantoms.drawing import draw_phantom
from busi_monai.phantoms.layouts import LAYOUT_WRITERS

__all__ = ["planted_defects", "write_phantom_dataset"]

DEFECTS = ".defects.json"
"""Record of planted defects, which readers skip as every hidden file."""


def write_phantom_dataset(
    out: str | Path,
    *,
    cases: int,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    layout: str = "busi",
    defects: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a phantom dataset and return its folder.

    The classes take turns. Every case draws from a child seed of its own: the same seed gives the
    same bytes (on one set of library versions), and more cases or defects leave the first ones as
    they were. The folder appears when it is complete.

    Args:
        out: the folder to make.
        cases: number of images, without those that ``defects`` adds.
        seed: non-negative.
        size: (H, W) of every image in px; by default they vary as in BUSI.
        layout: a name in ``READERS`` (dashes pass for underscores).
        defects: add cases and files with defects, and record them in ``.defects.json``, which
            ``planted_defects`` reads.
        overwrite: replace a phantom dataset that was written before.

    Raises:
        InputError: for an unknown layout, no cases, a negative seed, a size that is too small, or
            an existing non-empty folder without ``overwrite``.

    Examples:
        >>> import tempfile
        >>> from busi_monai.datasets import read_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = write_phantom_dataset(Path(folder) / "made", cases=3, size=(48, 64))
        ...     read_dataset(made).class_counts
        {'normal': 1, 'benign': 1, 'malignant': 1}
    """
    out = Path(out)
    layout_name = layout.replace("-", "_").lower()
    if layout_name not in LAYOUT_WRITERS:
        raise InputError(f"unknown layout {layout!r}; expected {', '.join(LAYOUT_WRITERS)}")
    if cases < 1:
        raise InputError(f"expected at least one case, got {cases}")
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, got {seed}")
    with output_folder(out, "phantom", overwrite=overwrite, record=HIDDEN_RECORD) as folder:
        writer = LAYOUT_WRITERS[layout_name](folder)
        for index in range(cases):
            class_name = writer.classes[index % len(writer.classes)]
            phantom = draw_phantom(class_name, _case_rng(seed, 0, index), size)
            writer.add(phantom.class_name, phantom.pixels, [phantom.lesion])
        if defects:
            write_json(folder / DEFECTS, plant_defects(writer, cases, _case_rng(seed, 1, 0), size))
        writer.finish()
    return out


def planted_defects(dataset: str | Path) -> dict[str, Any]:
    """Return the record of the defects that were planted in a phantom dataset.

    Keys, ids as the dataset's reader gives them: ``near_duplicates`` and ``class_conflicts`` (lists
    of pairs of ids), ``multi_mask``, ``text``, ``calipers``, ``colour``, ``truncated``,
    ``size_mismatch`` (lists of ids) and ``stray_files`` (paths).

    Raises:
        InputError: if no defects were planted.
    """
    record: dict[str, Any] = read_json(Path(dataset) / DEFECTS)
    return record


def _case_rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
