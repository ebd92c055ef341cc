"""What the audit learns from the files of one case, each of them decoded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import Case, DatasetIssue
from busi_monai.curation.artefacts import find_artefacts
from busi_monai.curation.fingerprints import Fingerprint, fingerprint
from busi_monai.datasets.masks import case_mask
from busi_monai.errors import ImageReadError
from busi_monai.io.images import read_image, read_mask
from busi_monai.outlines import Outline, mask_file
from busi_monai.path_names import named

__all__ = ["Examination", "examine_case"]


@dataclass(frozen=True)
class Examination:
    """One case as its pixels show it.

    Attributes:
        case: the case.
        problems: what is wrong with its files.
        fingerprint: of the image, or ``None`` if that cannot be read.
        lesion: (h, w) union mask on the fingerprint's thumbnail, or ``None`` without an image.
        lesion_pixels: of the union mask at native size, or ``None`` where a mask is missing or
            cannot be used.
        brightness: mean grey value in [0, 1], or ``None`` without an image.
        artefacts: kinds found, see ``ARTEFACT_KINDS``.
    """

    case: Case
    problems: list[DatasetIssue] = field(default_factory=list)
    fingerprint: Fingerprint | None = None
    lesion: NDArray[np.bool_] | None = None
    lesion_pixels: int | None = None
    brightness: float | None = None
    artefacts: list[str] = field(default_factory=list)

    @property
    def lesion_fraction(self) -> float | None:
        """Share of the image's pixels that the lesion takes, in [0, 1]."""
        if self.fingerprint is None or self.lesion_pixels is None:
            return None
        return self.lesion_pixels / (self.fingerprint.shape[0] * self.fingerprint.shape[1])


def examine_case(case: Case, root: Path) -> Examination:
    """Read a case's files and return what they show; a damaged file becomes a problem.

    Args:
        case: the case.
        root: folder to which the problems' file names are relative.
    """
    problems: list[DatasetIssue] = []
    try:
        loaded = read_image(case.image)
    except (ImageReadError, OSError) as error:
        problems.append(_problem(case, case.image, root, "unreadable", str(error)))
        for path in case.masks:
            _read(case, path, None, root, problems)
        return Examination(case, problems)
    pixels = loaded.pixels
    seen = fingerprint(pixels, loaded.sha256)
    union = np.zeros(seen.shape, dtype=bool)
    for path in case.masks:
        mask = _read(case, path, seen.shape, root, problems)
        if mask is not None:
            union |= mask
    usable = not problems and not case.lacks_mask
    lesion_pixels = int(np.count_nonzero(union))
    if usable:
        problems += _contradictions(case, lesion_pixels, root)
    small = seen.thumbnail.shape
    lesion = cv2.resize(union.astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    return Examination(
        case=case,
        problems=problems,
        fingerprint=seen,
        lesion=lesion,
        lesion_pixels=lesion_pixels if usable else None,
        brightness=float(pixels.mean()),
        artefacts=find_artefacts(loaded),
    )


def _read(
    case: Case,
    path: Path | Outline,
    size: tuple[int, int] | None,
    root: Path,
    problems: list[DatasetIssue],
) -> NDArray[np.bool_] | None:
    """Return a mask that can be used; without the image's size, it is only read."""
    try:
        if size is not None:
            return case_mask(case, path, size)
        return None if isinstance(path, Outline) else read_mask(path)
    except (ImageReadError, OSError) as error:
        kind = error.kind if isinstance(error, ImageReadError) else "unreadable"
        problems.append(_problem(case, path, root, kind, str(error)))
        return None


def _contradictions(case: Case, lesion_pixels: int, root: Path) -> list[DatasetIssue]:
    """Compare what the class says with what the mask holds."""
    if case.has_lesion and lesion_pixels == 0:
        message = f"expected an outlined {case.class_name} lesion, found an empty mask"
        return [_problem(case, case.masks[0], root, "empty_mask", message)]
    if not case.has_lesion and lesion_pixels > 0:
        message = f"expected an empty mask of a normal image, found {lesion_pixels} lesion pixels"
        return [_problem(case, case.masks[0], root, "normal_with_mask", message)]
    return []


def _problem(case: Case, path: Path | Outline, root: Path, kind: str, message: str) -> DatasetIssue:
    file = mask_file(path)
    shown = file.relative_to(root) if file.is_relative_to(root) else file
    return DatasetIssue(case.id, shown.as_posix(), kind, named(message.removeprefix(f"{file}: ")))
