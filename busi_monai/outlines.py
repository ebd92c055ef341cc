"""Lesions as annotation files draw them, polygons and run lengths, and the masks of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busi_monai.errors import ImageReadError

__all__ = ["Outline", "Point", "decode_rle", "mask_file", "polygon_mask", "unpacked_runs"]

Point = tuple[float, float]


@dataclass(frozen=True)
class Outline:
    """One lesion of one image in an annotation file. It stands where else a mask's path stands.

    Attributes:
        file: the annotation file.
        entry: which of its entries (``"annotation 7"``).
        polygons: each a sequence of (x, y); their union is the lesion. The middle of the upper left
            pixel is (0.5, 0.5).
        runs: lengths of runs, background first, down the columns from left to right; COCO's RLE.
        size: (H, W) in pixels of the image as the file states it, or ``None``.
        relative: whether x and y are fractions of the image's width and height, as in YOLO's files.
    """

    file: Path
    entry: str
    polygons: tuple[tuple[Point, ...], ...] = ()
    runs: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    relative: bool = False

    def __str__(self) -> str:
        """Return file and entry, as messages tell them."""
        return f"{self.file}: {self.entry}"

    @property
    def is_empty(self) -> bool:
        """Whether nothing was drawn: no polygon, and run lengths of background alone."""
        return not self.polygons and not any(self.runs[1::2])

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the lesion as bool of an image's (H, W); what lies beyond it is cut off.

        Raises:
            ImageReadError: if the file states another size; ``kind`` is ``size_mismatch``.
        """
        if self.size is not None and self.size != size:
            raise ImageReadError(
                f"{self}: drawn on {self.size[1]}×{self.size[0]} pixels, but the image has "
                f"{size[1]}×{size[0]}; export the annotations of this image again",
                kind="size_mismatch",
            )
        if self.runs:
            try:
                return decode_rle(self.runs, size)
            except ImageReadError as error:
                raise ImageReadError(f"{self}: {error}") from None
        height, width = size
        scale = np.array([width, height]) if self.relative else np.ones(2)
        mask = np.zeros(size, dtype=bool)
        for polygon in self.polygons:
            mask |= polygon_mask(np.asarray(polygon) * scale, size)
        return mask

    def reaches_beyond(self, tolerance: float = 1.0) -> bool:
        """Whether a polygon leaves the image by more than a tolerance in pixels.

        Where neither the size is stated nor the coordinates are relative, only the left and the
        upper border are known.
        """
        if self.relative:
            size, tolerance = (1, 1), 0.01
        else:
            size = self.size or (np.inf, np.inf)  # type: ignore[assignment]
        return any(
            not (-tolerance <= x <= size[1] + tolerance and -tolerance <= y <= size[0] + tolerance)
            for polygon in self.polygons
            for x, y in polygon
        )


def mask_file(mask: Path | Outline) -> Path:
    """Return the file that a mask or outline stands in."""
    return mask.file if isinstance(mask, Outline) else mask


def polygon_mask(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (H, W) bool, true on the pixels whose middle lies within (N, 2) x and y in pixels.

    Examples:
        >>> square = np.array([(1, 1), (3, 1), (3, 3), (1, 3)], dtype=float)
        >>> polygon_mask(square, (4, 5)).astype(int)
        array([[0, 0, 0, 0, 0],
               [0, 1, 1, 0, 0],
               [0, 1, 1, 0, 0],
               [0, 0, 0, 0, 0]])
    """
    from matplotlib.path import Path as Curve

    height, width = size
    mask = np.zeros(size, dtype=bool)
    left, top = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, (width, height)).astype(int)
    rows, columns = np.mgrid[top:bottom, left:right]
    if rows.size:
        middles = np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5
        inside = Curve(points).contains_points(middles)
        mask[top:bottom, left:right] = inside.reshape(rows.shape)
    return mask


def decode_rle(runs: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the (H, W) mask of COCO's run lengths, see ``Outline.runs``.

    Raises:
        ImageReadError: if the runs do not fill the image exactly.

    Examples:
        >>> decode_rle([4, 2], (2, 3)).astype(int)
        array([[0, 0, 1],
               [0, 0, 1]])
    """
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ImageReadError(
            f"run lengths fill {sum(runs)} pixels, expected {size[1]}×{size[0]}; export the "
            "annotations again"
        )
    lesion = np.arange(len(runs)) % 2 == 1
    return np.repeat(lesion, runs).reshape(size, order="F")


def unpacked_runs(text: str) -> list[int]:
    """Return the run lengths that COCO packs into text.

    From the third on, a number is the difference to the one two before it; numbers are written in
    groups of five bits, the lowest first, each as a letter from ``0`` on, 32 added where more
    groups follow (``maskApi.c`` of pycocotools).

    Raises:
        ValueError: if the text holds another letter.

    Examples:
        >>> unpacked_runs(";320004NN")
        [11, 3, 2, 3, 2, 3, 6, 1, 4]
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"run lengths hold {letter!r}, which is none of COCO's letters")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more of this number follows
            continue
        if bits & 0x10:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
