"""What lies in a prepared folder, file by file, against its datalist and its record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busi_monai.cases import CLASSES, DatasetIssue
from busi_monai.curation.storage import IMAGES, LABELS
from busi_monai.datasets import natural_key
from busi_monai.errors import ImageReadError
from busi_monai.files import file_sha256, read_json
from busi_monai.io.images import mask_sha256, read_image

__all__ = ["IMAGE_KINDS", "LABEL_KINDS", "MASK_KINDS", "ImageReading", "changed_files",
           "label_problems", "recorded_files", "stray_files"]  # fmt: skip

IMAGE_KINDS = ("missing_image", "unreadable", "changed_pixels")
LABEL_KINDS = ("missing_label", "unreadable_label", "size_mismatch", "label_values", "empty_mask")
MASK_KINDS = ("changed_mask",)


class ImageReading:
    """One pass over the images of a prepared folder.

    Attributes:
        problems: images that are missing, unreadable or of other pixels than listed.
        shapes: ``{path: (H, W)}`` of those that were read.
    """

    def __init__(self, folder: Path) -> None:
        """Start a pass over ``folder``."""
        self.folder = folder
        self.problems: list[DatasetIssue] = []
        self.shapes: dict[str, tuple[int, int]] = {}

    def loaded_images(
        self, items: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield path and (H, W) pixels of each item whose image can be read."""
        for item in items:
            path = self.folder / item["image"]
            if not path.is_file():
                self._fail(item, "missing_image", "the image is gone")
                continue
            try:
                loaded = read_image(path)
            except ImageReadError as error:
                self._fail(item, "unreadable", str(error).removeprefix(f"{path}: "))
                continue
            pixels = loaded.pixels
            self.shapes[item["image"]] = (pixels.shape[0], pixels.shape[1])
            if loaded.sha256 != item["sha256"]:
                self._fail(item, "changed_pixels", "other pixels than the datalist lists")
            yield item["image"], pixels

    def _fail(self, item: Mapping[str, Any], kind: str, message: str) -> None:
        self.problems.append(DatasetIssue(item["id"], item["image"], kind, message))


def recorded_files(folder: Path) -> dict[str, str]:
    """Return ``{relative path: SHA-256}`` from ``run.json``, or nothing where it has none."""
    path = folder / "run.json"
    content = read_json(path) if path.is_file() else {}
    files = content.get("files") if isinstance(content, dict) else None
    return dict(files) if isinstance(files, dict) else {}


def changed_files(folder: Path, recorded: Mapping[str, str]) -> list[DatasetIssue]:
    """Return the files whose bytes differ from what ``prepare`` recorded; missing ones are not."""
    return [
        DatasetIssue(Path(name).stem, name, "changed_file", "changed after it was written")
        for name, sha256 in recorded.items()
        if (folder / name).is_file() and file_sha256(folder / name) != sha256
    ]


def stray_files(folder: Path, items: Sequence[Mapping[str, Any]]) -> list[DatasetIssue]:
    """Return the files in ``images`` and ``labels`` that the datalist does not name."""
    named = {item[key] for item in items for key in ("image", "label")}
    present = [
        f"{part}/{path.name}"
        for part in (IMAGES, LABELS)
        if (folder / part).is_dir()
        for path in sorted((folder / part).iterdir(), key=natural_key)
        if not path.name.startswith(".")
    ]
    message = "the datalist does not name it; remove it, or prepare the dataset again"
    return [DatasetIssue("", name, "stray_file", message) for name in present if name not in named]


def label_problems(
    folder: Path, items: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, int]]
) -> list[DatasetIssue]:
    """Return the labels that are not what they should be.

    Args:
        folder: the prepared folder.
        items: of its datalist.
        shapes: ``{image path: (H, W)}`` of the images that could be read.
    """
    problems = []
    for item in items:
        if item["label"] is None:
            continue
        fault = _label_fault(folder / item["label"], item, shapes.get(item["image"]))
        if fault is not None:
            problems.append(DatasetIssue(item["id"], item["label"], *fault))
    return problems


def _label_fault(
    path: Path, item: Mapping[str, Any], expected: tuple[int, int] | None
) -> tuple[str, str] | None:
    """Return kind and message of what is wrong with one label."""
    if not path.is_file():
        return "missing_label", "the label is gone"
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        return "unreadable_label", f"damaged or no image: {error}"
    shape = values.shape
    if expected is not None and shape != expected:
        found = "×".join(str(side) for side in shape[1::-1] + shape[2:])
        return "size_mismatch", f"expected {expected[1]}×{expected[0]} pixels, found {found}"
    if values.dtype != np.uint8 or not np.isin(values, (0, 255)).all():
        return "label_values", "expected 8-bit values 0 and 255 only"
    return _content_fault(values, item)


def _content_fault(values: NDArray[np.uint8], item: Mapping[str, Any]) -> tuple[str, str] | None:
    if item["class_label"] != CLASSES.index("normal") and not values.any():
        return "empty_mask", "a lesion's label is empty"
    if item.get("label_sha256", mask_sha256(values)) != mask_sha256(values):
        return "changed_mask", "another mask than the datalist lists; prepare the dataset again"
    return None
