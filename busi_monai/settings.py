"""``settings.json``: how a trained network is to be used. Every way to a prediction reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from busi_monai.cases import CLASSES, MALIGNANT, NORMAL, ordered_subset
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json

__all__ = [
    "ASPECTS",
    "NORMALISATIONS",
    "PREVALENCE",
    "SENSITIVITIES",
    "WHEN_NO_LESION",
    "Consistency",
    "InferenceSettings",
    "LesionCrop",
    "MalignancyThreshold",
    "load_settings",
]

ASPECTS = ("stretch", "pad")
NORMALISATIONS = ("unit", "zscore")
WHEN_NO_LESION = ("whole", "normal")
SCHEMA_VERSION = 1
SETTINGS = "settings.json"
"""Name of the file in a bundle."""

SENSITIVITIES = (0.90, 0.95, 0.98)
"""Sensitivities for malignancy that thresholds are fitted for."""

PREVALENCE = 0.10
"""Part of malignant images that predictive values are told for, unless another is given."""


@dataclass(frozen=True)
class Consistency:
    """The mask↔class consistency rule, off by default.

    Attributes:
        enabled: whether the rule is applied.
        min_lesion_fraction: a predicted lesion smaller than this part of the image's pixels counts
            as none, so that the predicted class becomes normal.
        normal_threshold: calibrated probability of normal from which the predicted class becomes
            normal, though another may be more probable; ``None`` for no such threshold.
        normal_empties_mask: whether a predicted normal gets an empty mask.
    """

    enabled: bool = False
    min_lesion_fraction: float = 0.001
    normal_threshold: float | None = None
    normal_empties_mask: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        _check_switches(self, "enabled", "normal_empties_mask")
        _check_part("min_lesion_fraction", self.min_lesion_fraction)
        if self.normal_threshold is not None:
            _check_part("normal_threshold", self.normal_threshold)

    def changed(self, change: Any) -> Consistency:
        """Return the rule turned on or off, or on with the other values of a mapping.

        Raises:
            InputError: if it is neither, has an unknown name, or a wrong value.

        Examples:
            >>> Consistency().changed({"normal_threshold": 0.4}).enabled
            True
        """
        if isinstance(change, bool):
            change = {"enabled": change}
        if not isinstance(change, Mapping):
            raise InputError(
                f"consistency must be true, false, or a mapping such as {{normal_threshold: 0.4}}, "
                f"got {change!r}"
            )
        known = [of.name for of in fields(self)]
        unknown = [str(name) for name in change if name not in known]
        if unknown:
            raise InputError(
                f"consistency has no {', '.join(unknown)}; expected some of {', '.join(known)}"
            )
        return replace(self, **{"enabled": True, **change})

    def as_record(self) -> dict[str, Any] | bool:
        """Return what ``run.json`` tells of it: all of its values, or ``False`` while it is off."""
        return asdict(self) if self.enabled else False

    def applied(
        self, predicted_class: str, lesion_fraction: float, p_normal: float
    ) -> tuple[str, bool]:
        """Return the class that agrees with a mask, and whether the mask is emptied.

        Whether the finding may be malignant, and so must not be touched, is asked before.
        ``p_normal`` is calibrated.

        Examples:
            >>> rule = Consistency(min_lesion_fraction=0.001, normal_threshold=0.4)
            >>> rule.applied("benign", 0.0005, 0.1), rule.applied("benign", 0.02, 0.1)
            (('normal', True), ('benign', False))
            >>> rule.applied("benign", 0.02, 0.45)
            ('normal', True)
        """
        small = lesion_fraction < self.min_lesion_fraction or lesion_fraction == 0
        if small or (self.normal_threshold is not None and p_normal >= self.normal_threshold):
            predicted_class = NORMAL
        return predicted_class, predicted_class == NORMAL and self.normal_empties_mask


@dataclass(frozen=True)
class LesionCrop:
    """That a network sees the lesion's surroundings only, not the whole image.

    Attributes:
        margin: what is added on each side of the lesion's box, as a part of the box's own height
            and width; cut off at the image's border.
        when_no_lesion: what a two-stage network makes of an image without a lesion found: its
            ``whole`` goes to the classifier, or its class is ``normal`` unseen.
    """

    margin: float = 0.25
    when_no_lesion: str = "whole"

    def __post_init__(self) -> None:
        """Check the values."""
        _check_range("margin", self.margin, 10)
        _check_choice("when_no_lesion", self.when_no_lesion, WHEN_NO_LESION)


@dataclass(frozen=True)
class MalignancyThreshold:
    """A threshold on the probability of malignancy, and what came of it where it was fitted.

    Attributes:
        threshold: calibrated probability from which an image is called malignant.
        sensitivity: part of the malignant images that reach it.
        specificity: part of the others that do not.
        ppv: part of those called malignant that are, at the prevalence.
        npv: part of the others that are not malignant, at the prevalence.
        prevalence: part of malignant images that ppv and npv are told for.
        missed: number of malignant images below the threshold.
        positives: number of malignant images it was fitted on.
        negatives: number of other images.
    """

    threshold: float
    sensitivity: float
    specificity: float
    ppv: float | None
    npv: float | None
    prevalence: float
    missed: int
    positives: int
    negatives: int

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("threshold", "sensitivity", "specificity", "prevalence"):
            _check_range(name, getattr(self, name))


@dataclass(frozen=True)
class InferenceSettings:
    """Everything besides the weights that prediction depends on.

    Attributes:
        classes: ordered class names, one for each class logit; empty if the network has no class
            head.
        image_size: (height, width) in pixels of the network's input.
        aspect: ``stretch`` to that size, or keep the aspect ratio and ``pad``.
        normalisation: ``unit`` leaves [0, 1]; ``zscore`` takes each image's mean and deviation.
        median_filter: odd side in pixels of a median filter before resizing, 0 for none.
        clahe: whether contrast-limited adaptive histogram equalisation is applied.
        lesion_crop: crop to the known mask before resizing: for the classifier of lesions, which
            was trained so; ``None`` for networks that see the whole image.
        temperature: the class logits are divided by it (Guo et al., ICML 2017, "On calibration of
            modern neural networks").
        mask_threshold: lesion probability from which a pixel belongs to the mask.
        class_thresholds: by class name, the probability from which on, and only from which on, that
            class is predicted, whatever the others are; malignant goes first. If no class reaches
            its own, the most probable of those without one is predicted. Empty: the most probable.
        tta_flip: whether the image and its mirror image are both predicted and averaged.
        consistency: the mask↔class consistency rule.
        operating_points: thresholds for malignancy by name, such as ``sensitivity_95``, that a
            prediction can be made at; see ``at``.
        calibration: on which predictions temperature and operating points were fitted; empty where
            they were not.
    """

    classes: tuple[str, ...] = CLASSES
    image_size: tuple[int, int] = (256, 256)
    aspect: str = "stretch"
    normalisation: str = "unit"
    median_filter: int = 0
    clahe: bool = False
    lesion_crop: LesionCrop | None = None
    temperature: float = 1.0
    mask_threshold: float = 0.5
    class_thresholds: Mapping[str, float] = field(default_factory=dict)
    tta_flip: bool = False
    consistency: Consistency = field(default_factory=Consistency)
    operating_points: Mapping[str, MalignancyThreshold] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        if isinstance(self.consistency, Mapping):
            rule = Consistency().changed({"enabled": False, **self.consistency})
            object.__setattr__(self, "consistency", rule)
        if isinstance(self.lesion_crop, Mapping):
            object.__setattr__(self, "lesion_crop", LesionCrop(**self.lesion_crop))
        points = {
            name: MalignancyThreshold(**point) if isinstance(point, Mapping) else point
            for name, point in self.operating_points.items()
        }
        object.__setattr__(self, "operating_points", points)
        _check_switches(self, "clahe", "tta_flip")
        if not isinstance(self.consistency, Consistency):
            raise InputError(
                f"consistency must be a mapping such as {{enabled: true}}, got {self.consistency!r}"
            )
        if not isinstance(self.lesion_crop, LesionCrop | None):
            raise InputError(
                f"lesion_crop must be null, or a mapping such as {{margin: 0.25}}, got "
                f"{self.lesion_crop!r}"
            )
        if self.classes:
            object.__setattr__(self, "classes", ordered_subset(self.classes))
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        _check_choice("aspect", self.aspect, ASPECTS)
        _check_choice("normalisation", self.normalisation, NORMALISATIONS)
        if self.median_filter and (self.median_filter < 3 or self.median_filter % 2 == 0):
            raise InputError(
                f"median_filter must be 0, or odd and at least 3: {self.median_filter}"
            )
        if not self.temperature > 0:
            raise InputError(f"temperature must be above 0, got {self.temperature}")
        for name, value in {"mask_threshold": self.mask_threshold, **self.class_thresholds}.items():
            _check_range(f"threshold {name}", value)
        unknown = set(self.class_thresholds) - set(self.classes)
        if unknown:
            raise InputError(f"class_thresholds name unknown classes: {', '.join(sorted(unknown))}")

    def at(self, name: str) -> InferenceSettings:
        """Return the same with malignancy decided at one of the ``operating_points``."""
        if name not in self.operating_points:
            known = ", ".join(self.operating_points)
            raise InputError(
                f"no operating point {name!r}; "
                + (f"there are {known}" if known else "fit some by busi-monai calibrate")
            )
        threshold = self.operating_points[name].threshold
        return replace(self, class_thresholds={**self.class_thresholds, MALIGNANT: threshold})

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def save(self, bundle: str | Path) -> None:
        """Write a bundle's ``settings.json``."""
        write_json(Path(bundle) / SETTINGS, self.as_dict())


def _check_switches(settings: Consistency | InferenceSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, bool):
            raise InputError(f"{name} must be true or false, got {value!r}")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _check_range(name: str, value: float, most: float = 1) -> None:
    if not 0 <= value <= most:
        raise InputError(f"{name} must lie in [0, {most}], got {value}")


def _check_part(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number in [0, 1], got {value!r}")


def _checked_size(size: Any) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise InputError(f"image_size must be (height, width) in pixels, got {size!r}")
    return height, width


def load_settings(
    bundle: str | Path,
    name: str | None = None,
    *,
    consistency: bool | Mapping[str, Any] | None = None,
) -> InferenceSettings:
    """Read a bundle's ``settings.json``, or ``operating.json``, as version 0.1.0 called it.

    Args:
        bundle: its folder.
        name: one of its ``operating_points``, at which malignancy is to be decided.
        consistency: whether mask and class are made to agree, and by what values other than the
            file's (see ``Consistency.changed``); by default as the file says.

    Raises:
        InputError: if the file is missing, not JSON, of a newer schema, or holds a wrong value, or
            if it has no operating point of that name.
    """
    path, earlier = Path(bundle) / SETTINGS, Path(bundle) / "operating.json"
    if earlier.is_file() and not path.exists():
        path = earlier
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    version = content.pop("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(f"{path}: expected schema_version up to {SCHEMA_VERSION}, got {version!r}")
    if "flip_averaging" in content:  # as version 0.1.0 called it
        content["tta_flip"] = content.pop("flip_averaging")
    try:
        settings = InferenceSettings(**content)
        settings = settings if name is None else settings.at(name)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error
    if consistency is None:
        return settings
    return replace(settings, consistency=settings.consistency.changed(consistency))
