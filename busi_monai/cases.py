"""The vocabulary that everything shares: classes, splits, a case, a problem found in a dataset.

Examples:
    >>> from busi_monai.cases import CLASSES, class_index
    >>> CLASSES
    ('normal', 'benign', 'malignant')
    >>> class_index("malignant")
    2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from busi_monai.errors import InputError
from busi_monai.outlines import Outline

__all__ = [
    "BENIGN",
    "CLASSES",
    "DATALIST_KEYS",
    "MALIGNANT",
    "NORMAL",
    "NOT_FOR_CLINICAL_USE",
    "SPLITS",
    "Case",
    "DatasetIssue",
    "PredictionWarning",
    "class_index",
    "ordered_subset",
]

NORMAL, BENIGN, MALIGNANT = "normal", "benign", "malignant"
CLASSES: tuple[str, ...] = (NORMAL, BENIGN, MALIGNANT)
"""Class names in the order of the network's logits, of tables and of figures, everywhere."""

SPLITS: tuple[str, ...] = ("train", "validation", "test", "reported")
"""What images of a prepared dataset can be asked for. ``reported`` is ``test``, or a fold."""

DATALIST_KEYS: dict[str, str] = {"train": "training", "validation": "validation", "test": "test"}
"""The split that each list of a ``datalist.json`` holds: ``training`` is MONAI's key."""

NOT_FOR_CLINICAL_USE = "For research use only; not a medical device."
"""What a person reads beside every prediction."""


def class_index(name: str, classes: Sequence[str] = CLASSES) -> int:
    """Return the position of a class name, its letter case aside: its integer ``class_label``.

    Raises:
        InputError: if the name is not one of ``classes``.
    """
    try:
        return list(classes).index(name.strip().lower())
    except ValueError:
        raise InputError(f"unknown class {name!r}; expected one of {', '.join(classes)}") from None


def ordered_subset(names: Sequence[str]) -> tuple[str, ...]:
    """Return the given classes in the order of ``CLASSES``, for a binary system for example.

    Raises:
        InputError: if a name is unknown or fewer than two are given.

    Examples:
        >>> ordered_subset(["malignant", "benign"])
        ('benign', 'malignant')
    """
    wanted = {CLASSES[class_index(name)] for name in names}
    if len(wanted) < 2:
        raise InputError(f"expected at least two different classes, got {list(names)}")
    return tuple(name for name in CLASSES if name in wanted)


@dataclass(frozen=True)
class Case:
    """One image with its masks.

    Attributes:
        id: file name without suffix (``"benign (1)"``), after its folder where others have that
            name (``"p1-scan"``); unique within a dataset, letter case aside.
        image: path of the image.
        masks: paths of its mask files or outlines of annotation files; their union is the lesion.
            A normal case without one has an empty mask; a lesion without one is a ``missing_mask``.
        class_name: one of ``CLASSES``.
        dataset: name of the reader it came from (``"busi"``).
        group: what must stay on one side of every split where the dataset says so (the patient),
            or ``None``.
        spacing_mm: pixel spacing (row, column) in millimetres, or ``None`` where none is stated.
        meta: what else the dataset tells (BI-RADS, device, patient, histology), plain JSON values.
    """

    id: str
    image: Path
    masks: tuple[Path | Outline, ...]
    class_name: str
    dataset: str
    group: str | None = None
    spacing_mm: tuple[float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_label(self) -> int:
        """Index of the class in ``CLASSES``."""
        return class_index(self.class_name)

    @property
    def has_lesion(self) -> bool:
        """Whether the class says that there is a lesion to outline."""
        return self.class_name != NORMAL

    @property
    def lacks_mask(self) -> bool:
        """Whether a lesion has no mask file."""
        return self.has_lesion and not self.masks


@dataclass(frozen=True)
class DatasetIssue:
    """Something wrong with a file or case of a dataset, as listed in ``audit.json``.

    Attributes:
        id: id of the case, or an empty string where the file belongs to none.
        file: path relative to the dataset's root, with forward slashes.
        kind: one of the machine-readable kinds (``unreadable``, ``size_mismatch``,
            ``missing_mask``, ``normal_with_mask``, ``stray_file``, ``mask_without_image``,
            ``missing_image``, ``unknown_class``, ``duplicate_id``, ``empty_mask``,
            ``mask_values``, ``inverted_mask``, ``renamed_id``, ``annotation``, ``outside_image``,
            ``unlabelled``, ``refused_member``).
        message: what was expected, what was found, what to do.
    """

    id: str
    file: str
    kind: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """Return the problem as a plain dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PredictionWarning:
    """Something to know of a prediction, or of the image that it is made from.

    Attributes:
        code: name of the kind, for programs.
        message: for people; a clause without a full stop, and no value that may name a patient.
    """

    code: str
    message: str
