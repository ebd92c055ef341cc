"""Storing one case in a prepared folder: its image as found, its lesion as one mask."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from busi_monai.cases import Case, DatasetIssue
from busi_monai.datasets import clean_mask, individual_masks, lesion_mask
from busi_monai.errors import ImageReadError
from busi_monai.imaging import lesion_size
from busi_monai.io.images import (
    LoadedImage,
    mask_sha256,
    pixel_sha256,
    read_image,
    write_mask,
    write_png,
)
from busi_monai.outlines import mask_file

__all__ = ["IMAGES", "LABELS", "MaskTreatment", "PreparedStore", "Stored", "store_case"]

IMAGES = "images"
LABELS = "labels"

_EXIF_ORIENTATION = 0x0112
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


@dataclass(frozen=True)
class Stored:
    """A case in a prepared folder.

    Attributes:
        case: where it came from; where the dataset states no spacing, with the scale of the file
            at the lesion, or without a lesion the only one of the file.
        image: path relative to the prepared folder.
        label: the same of the union mask, or ``None`` for a lesion without one.
        sha256: hash of the grey pixels.
        label_sha256: hash of the union mask, or ``None`` where there is no label.
    """

    case: Case
    image: str
    label: str | None
    sha256: str
    label_sha256: str | None = None

    def as_item(self, group: str, fold: int | None) -> dict[str, Any]:
        """Return the item of a datalist."""
        case = self.case
        return {
            "id": case.id,
            "image": self.image,
            "label": self.label,
            "class_label": case.class_label,
            "group": group,
            "fold": fold,
            "dataset": case.dataset,
            "sha256": self.sha256,
            "spacing_mm": list(case.spacing_mm) if case.spacing_mm else None,
            "meta": {
                key: value
                for key, value in sorted(case.meta.items())
                if not key.startswith("official_")  # which fold and split say
                and value is not None
                and not (isinstance(value, float) and not math.isfinite(value))
            },
        }


@dataclass(frozen=True)
class MaskTreatment:
    """What becomes of masks."""

    multi_mask: str = "union"
    missing_mask: str = "exclude"
    mask_cleanup: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> MaskTreatment:
        """Take what a datalist's ``options`` state."""
        names = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in names})


class PreparedStore:
    """The images and labels of a prepared folder while it is being made.

    Attributes:
        stored: usable cases by id, in the order they were added.
        excluded: ``{id: reason}`` of the others.
        failures: those of them whose files are at fault.
        label_hashes: hashes of the masks that were written, by path relative to the folder.
    """

    def __init__(self, folder: Path, root: Path, treatment: MaskTreatment) -> None:
        """Start a store."""
        self.folder = folder
        self.treatment = treatment
        self.stored: dict[str, Stored] = {}
        self.excluded: dict[str, str] = {}
        self.failures: list[DatasetIssue] = []
        self.label_hashes: dict[str, str] = {}
        self._root = root

    def add(self, case: Case) -> None:
        """Store a case, or note why it cannot be used."""
        try:
            stored = store_case(case, self.folder, mask_cleanup=self.treatment.mask_cleanup)
        except ImageReadError as error:
            files = map(mask_file, case.masks)
            at_fault = next((one for one in files if str(error).startswith(f"{one}: ")), case.image)
            file = self._named(at_fault)
            message = str(error).removeprefix(f"{at_fault}: ").replace(f"{self._root}/", "")
            self.excluded[case.id] = f"unusable: {file}: {message}"
            self.failures.append(DatasetIssue(case.id, file, "unusable", message))
            return
        if stored.label is None and self.treatment.missing_mask == "exclude":
            what = f"the lesion of a {case.class_name} case has"
            empty = ", ".join(self._named(mask_file(mask)) for mask in case.masks)
            self.excluded[case.id] = (
                f"empty mask: {what} no pixel in {empty}" if empty else f"missing mask: {what} none"
            )
            return
        self.stored[case.id] = stored
        if stored.label is not None and stored.label_sha256 is not None:
            self.label_hashes[stored.label] = stored.label_sha256

    def _named(self, path: Path) -> str:
        root = self._root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    def add_single_masks(self, case_id: str) -> dict[str, str]:
        """Write each mask of a case with several as ``labels/<id>#<k>.png``, k from 1.

        Returns:
            ``{id#k: path relative to the folder}``, empty for a case of fewer than two lesions.
        """
        masks = individual_masks(self.stored[case_id].case)
        if self.treatment.mask_cleanup:
            masks = [clean_mask(mask) for mask in masks]
        masks = [mask for mask in masks if mask.any()]
        labels = {}
        for number, mask in enumerate(masks if len(masks) > 1 else (), start=1):
            name = f"{case_id}#{number}"
            labels[name] = f"{LABELS}/{name}.png"
            write_mask(self.folder / labels[name], mask)
            self.label_hashes[labels[name]] = mask_sha256(mask)
        return labels

    def keep_only(self, paths: Collection[str]) -> None:
        """Remove every image and label that is not among the paths, relative to the folder."""
        for name in (IMAGES, LABELS):
            for path in (self.folder / name).glob("*.png"):
                if f"{name}/{path.name}" not in paths:
                    path.unlink()


def store_case(case: Case, folder: Path, *, mask_cleanup: bool = False) -> Stored:
    """Write ``images/<id>.png`` and ``labels/<id>.png`` (values 0 and 255).

    A PNG that needs no turning is copied byte for byte; everything else is encoded anew as PNG
    without loss, in its own mode where PNG knows it, else in grey.

    Args:
        case: one image with none to several masks. A lesion whose masks are all empty counts as
            one without mask.
        folder: the prepared folder.
        mask_cleanup: whether masks pass through ``clean_mask``.

    Raises:
        ImageReadError: if a file cannot be read or a mask has another size; nothing is written.
    """
    loaded = read_image(case.image)
    height, width = loaded.pixels.shape
    lesion = lesion_mask(case, cleanup=mask_cleanup, size=(height, width))
    sha256 = loaded.sha256
    image, label = f"{IMAGES}/{case.id}.png", f"{LABELS}/{case.id}.png"
    _store_image(case.image, folder / image, loaded)
    spacing = case.spacing_mm or lesion_size(lesion, loaded.scale).mask_mm
    stored = replace(case, spacing_mm=spacing)
    if case.has_lesion and not lesion.any():
        return Stored(stored, image, None, sha256)
    write_mask(folder / label, lesion)
    return Stored(stored, image, label, sha256, mask_sha256(lesion))


def _store_image(source: Path, target: Path, loaded: LoadedImage) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_upright_png(source):
        shutil.copyfile(source, target)
        return
    if _save_in_own_mode(source, target):
        again = read_image(target)
        if again.sha256 == loaded.sha256 and np.array_equal(again.pixels, loaded.pixels):
            return
    _save_grey(target, loaded)


def _is_upright_png(source: Path) -> bool:
    try:
        with Image.open(source) as image:
            return image.format == "PNG" and image.getexif().get(_EXIF_ORIENTATION, 1) == 1
    except OSError:
        return False


def _save_in_own_mode(source: Path, target: Path) -> bool:
    """Encode what Pillow reads as PNG; ``False`` where it does not read it or PNG has no such mode.

    Metadata is left behind, above all the orientation that the pixels now already have.
    """
    try:
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError):
        return False
    if image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        image = image.convert("RGB")
    if image.mode not in _PNG_MODES:
        return False
    image.info = {key: image.info[key] for key in ("transparency",) if key in image.info}
    image.save(target, format="PNG", compress_level=3)
    return True


def _save_grey(target: Path, loaded: LoadedImage) -> None:
    """Write grey pixels in 8 bits where that loses nothing, else in 16 with the number used."""
    in_bytes = np.round(loaded.pixels * 255).astype(np.uint8)
    if pixel_sha256(in_bytes.astype(np.float32) / np.float32(255)) == loaded.sha256:
        write_png(target, in_bytes)
        return
    stored = np.round(loaded.pixels * loaded.hash_white).astype(np.uint16)
    significant = PngInfo()
    significant.add(b"sBIT", bytes([loaded.hash_white.bit_length()]))
    Image.fromarray(stored).save(target, format="PNG", pnginfo=significant)
