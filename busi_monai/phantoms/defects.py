"""Defects planted in a phantom dataset: what an audit has to find."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.phantoms.drawing import Phantom, draw_phantom
from busi_monai.phantoms.layouts import LayoutWriter

__all__ = ["burn_calipers", "burn_text", "near_copy", "paint_colour", "plant_defects"]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_LABELS = ("RT BREAST", "LT UOQ", "RADIAL 3 OCL", "LT LOQ", "RT AX", "12MHZ 4CM")


def plant_defects(
    writer: LayoutWriter, cases: int, rng: np.random.Generator, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Add images and files with defects to a dataset that is being written.

    Nothing that was written before is changed. The number of near-duplicates grows with that of
    the sound ``cases``. Returns what was planted, as ``planted_defects`` describes it.
    """
    planting = _Planting(writer, rng, size)
    for index in range(max(2, cases // 12)):
        planting.near_duplicate(writer.classes[index % len(writer.classes)])
    planting.class_conflict()
    for class_name in ("benign", "malignant"):
        if writer.many_masks:
            planting.two_masks(class_name)
        planting.marked("text", class_name)
        planting.marked("calipers", class_name)
    planting.marked("colour", "benign")
    planting.truncated()
    planting.other_mask_size()
    planting.stray_file()
    return planting.planted


class _Planting:
    def __init__(
        self, writer: LayoutWriter, rng: np.random.Generator, size: tuple[int, int] | None
    ) -> None:
        self.writer = writer
        self.rng = rng
        self.size = size
        self.planted: dict[str, Any] = {
            kind: []
            for kind in (
                "near_duplicates", "class_conflicts", "multi_mask", "text", "calipers", "colour",
                "truncated", "size_mismatch", "stray_files",
            )
        }  # fmt: skip

    def near_duplicate(self, class_name: str) -> None:
        """The same image twice: the copy cropped, rescaled, brighter, with a text of its own."""
        self.planted["text"].append(self._twice(class_name, class_name, text=True)[1])

    def class_conflict(self) -> None:
        """The same image once as benign and once as malignant."""
        self.planted["class_conflicts"].append(self._twice("benign", "malignant", text=False))

    def _twice(self, class_name: str, class_of_copy: str, *, text: bool) -> list[str]:
        phantom = self._draw(class_name)
        first = self._add(phantom)
        copy, lesion = near_copy(phantom.pixels, phantom.lesion, self.rng)
        copy = burn_text(copy, self.rng) if text else copy
        pair = [first, self.writer.add(class_of_copy, copy, [lesion])]
        self.planted["near_duplicates"].append(pair)
        return pair

    def two_masks(self, class_name: str) -> None:
        """A lesion outlined in two parts."""
        phantom = self._draw(class_name)
        split = int(np.nonzero(phantom.lesion)[1].mean())
        left, right = phantom.lesion.copy(), phantom.lesion.copy()
        left[:, split:] = False
        right[:, :split] = False
        case_id = self.writer.add(class_name, phantom.pixels, [left, right])
        self.planted["multi_mask"].append(case_id)

    def marked(self, kind: str, class_name: str) -> None:
        """A label burned into the image, calipers on the lesion, or a colour Doppler box."""
        phantom = self._draw(class_name)
        if kind == "calipers":
            pixels = burn_calipers(phantom.pixels, phantom.lesion)
        else:
            mark = burn_text if kind == "text" else paint_colour
            pixels = mark(phantom.pixels, self.rng)
        self.planted[kind].append(self.writer.add(class_name, pixels, [phantom.lesion]))

    def truncated(self) -> None:
        """An image whose file ends in the middle."""
        case_id = self._add(self._draw("malignant"))
        path = self.writer.image_path(case_id)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        self.planted["truncated"].append(case_id)

    def other_mask_size(self) -> None:
        """A mask that is smaller than its image."""
        phantom = self._draw("benign")
        mask = phantom.lesion[: phantom.lesion.shape[0] - 6, : phantom.lesion.shape[1] - 4]
        case_id = self.writer.add("benign", phantom.pixels, [mask])
        self.planted["size_mismatch"].append(case_id)

    def stray_file(self) -> None:
        """A note that belongs to no case."""
        case_id = self._add(self._draw("benign"))
        path = self.writer.image_path(case_id).with_name("notes.txt")
        path.write_text("Left here by mistake.\n", encoding="utf-8")
        self.planted["stray_files"].append(path.relative_to(self.writer.folder).as_posix())

    def _draw(self, class_name: str) -> Phantom:
        return draw_phantom(class_name, self.rng, self.size)

    def _add(self, phantom: Phantom) -> str:
        return self.writer.add(phantom.class_name, phantom.pixels, [phantom.lesion])


def near_copy(pixels: Pixels, lesion: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Return a slightly cropped, rescaled and brighter copy of an image and its mask, (H, W)."""
    height, width = pixels.shape
    top, bottom = (int(part * height) for part in rng.uniform(0, 0.02, 2))
    left, right = (int(part * width) for part in rng.uniform(0, 0.02, 2))
    window = slice(top, height - bottom), slice(left, width - right)
    scale = rng.uniform(0.92, 1.08)
    size = round((width - left - right) * scale), round((height - top - bottom) * scale)
    copy = cv2.resize(pixels[window], size, interpolation=cv2.INTER_AREA)
    copy = np.clip(copy * rng.uniform(0.94, 1.1) + rng.uniform(-4, 6), 0, 255)
    mask = cv2.resize(lesion[window].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return np.round(copy).astype(np.uint8), mask


def burn_text(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a copy with a white label near a lower corner, (H, W) uint8."""
    marked = pixels.copy()
    height, width = marked.shape
    label = _LABELS[rng.integers(len(_LABELS))]
    scale = max(0.4, 0.0016 * height)
    thickness = max(1, round(height / 180))
    (long, _), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    column = max(2, int(rng.choice([0.03 * width, 0.97 * width - long])))
    row = int(height * rng.uniform(0.88, 0.96))
    place = (column, row)
    cv2.putText(marked, label, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness)
    return marked


def burn_calipers(pixels: Pixels, lesion: Mask) -> Pixels:
    """Return a copy with crosses at the lesion's left, right, upper and lower end."""
    marked = pixels.copy()
    rows, columns = np.nonzero(lesion)
    arm = max(2, round(lesion.shape[0] / 60))
    for positions in (columns, rows):
        ends = [int(np.argmin(positions)), int(np.argmax(positions))]
        (x0, y0), (x1, y1) = ((int(columns[end]), int(rows[end])) for end in ends)
        dots = max(2, int(np.hypot(x1 - x0, y1 - y0) / 4))
        for part in np.linspace(0, 1, dots):
            marked[round(y0 + part * (y1 - y0)), round(x0 + part * (x1 - x0))] = 255
        for x, y in ((x0, y0), (x1, y1)):
            cv2.line(marked, (x - arm, y), (x + arm, y), 255, 1)
            cv2.line(marked, (x, y - arm), (x, y + arm), 255, 1)
    return marked


def paint_colour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an (H, W, 3) copy with a colour Doppler box: its frame, and flow in red and blue."""
    marked = np.repeat(pixels[..., None], 3, axis=2)
    height, width = pixels.shape
    top, left = (int(rng.uniform(0.2, 0.4) * side) for side in (height, width))
    bottom, right = top + height // 3, left + width // 3
    cv2.rectangle(marked, (left, top), (right, bottom), (0, 220, 120), 1)
    for colour in ((220, 40, 20), (30, 60, 230)):
        centre = int(rng.uniform(left + 8, right - 8)), int(rng.uniform(top + 8, bottom - 8))
        axes = max(3, width // 30), max(2, height // 60)
        cv2.ellipse(marked, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return marked
