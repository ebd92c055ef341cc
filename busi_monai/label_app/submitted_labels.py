"""What annotators submitted to a MONAI Label server of a local folder, read without MONAI Label.

The folder holds the images, ``labels/<tag>/<id>.<suffix>`` with what was drawn of each, and
``datastore_v2.json`` with what was said of it. A server of ours keeps the latter in
``labels/<tag>/<id>.json`` as well, which goes first: the stock file is rewritten whole by every
process of a server from its own memory, so that a class can be lost from it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from busi_monai.cases import CLASSES, NORMAL, DatasetIssue
from busi_monai.datasets import (
    PROVENANCE_COLUMNS,
    index_images,
    known_class,
    natural_key,
    visible_files,
)
from busi_monai.errors import ImageReadError, InputError
from busi_monai.files import lie_within_each_other, read_json, write_json
from busi_monai.io.image_files import image_stem
from busi_monai.io.images import read_image, write_mask
from busi_monai.label_app.label_files import LABEL_SUFFIXES, read_label_values
from busi_monai.outputs import output_folder
from busi_monai.records import RunRecord

__all__ = [
    "DATASTORE_NAME",
    "PROVENANCE_NAME",
    "LabelImport",
    "SubmittedLabel",
    "SubmittedLabels",
    "class_of_label",
    "import_submitted_labels",
    "read_submitted_labels",
]

DATASTORE_NAME = "datastore_v2.json"
PROVENANCE_NAME = "provenance.json"


@dataclass(frozen=True)
class SubmittedLabel:
    """One image with what an annotator submitted of it.

    Attributes:
        id: the image's name without suffix.
        image: the image.
        label: the label as submitted.
        class_name: one of ``CLASSES``.
        lesion_pixels: pixels of the lesion.
        size: (height, width) in pixels.
        annotator: who, as the viewer tells itself; ``None`` where it does not.
        submitted: when, UTC (``"2026-01-31T12:00:00Z"``), or ``None`` where it is not known.
        model: which weights were served, and what they had proposed, as far as it was kept.
    """

    id: str
    image: Path
    label: Path
    class_name: str
    lesion_pixels: int
    size: tuple[int, int]
    annotator: str | None = None
    submitted: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmittedLabels:
    """The labels of a tag, and those that cannot be used.

    Attributes:
        labels: naturally sorted by id.
        problems: each label left out, with the reason.
    """

    labels: list[SubmittedLabel]
    problems: list[DatasetIssue]


@dataclass(frozen=True)
class LabelImport:
    """What ``import_submitted_labels`` did.

    Attributes:
        out: the folder written, or ``None`` if no label could be used.
        tag: which labels were taken.
        classes: number of labels by class.
        problems: each label left out, with the reason.
    """

    out: Path | None
    tag: str
    classes: Mapping[str, int]
    problems: list[DatasetIssue]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "out": None if self.out is None else str(self.out),
            "tag": self.tag,
            "classes": dict(self.classes),
            "left_out": [problem.as_dict() for problem in self.problems],
        }


def read_submitted_labels(studies: str | Path, tag: str = "final") -> SubmittedLabels:
    """Read all labels of a tag, going on past those that cannot be used.

    The files count, not the datastore's table of them. A label's class is the ``class`` that was
    submitted with it; without one, an empty label is a normal, and the only segment that is named
    after a class tells it.

    Raises:
        InputError: if the folder is not there, or has no labels of that tag.
    """
    studies = Path(studies)
    folder = studies / "labels" / tag
    if not folder.is_dir():
        folders = sorted((studies / "labels").glob("*"), key=natural_key)
        tags = [path.name for path in folders if path.is_dir()]
        raise InputError(
            f"{studies} has no folder labels/{tag}; expected the studies folder of a MONAI Label "
            f"server" + (f", whose tags are {', '.join(tags)}" if tags else "")
        )
    problems: list[DatasetIssue] = []
    images = index_images(studies, visible_files(studies), [])
    entries = _datastore_entries(studies)
    labels = []
    for label_id, paths in _label_files(folder).items():
        info = _info_of(folder, entries, label_id, tag)
        path = next((path for path in paths if path.name == info.get("name")), paths[0])
        relative = path.relative_to(studies).as_posix()
        image = _image_of(studies, label_id, entries, images)
        if image is None:
            message = f"there is no image {label_id!r} for this label"
            problems.append(DatasetIssue(label_id, relative, "mask_without_image", message))
            continue
        try:
            labels.append(_read_label(label_id, image, path, info))
        except (ImageReadError, InputError) as error:
            kind = getattr(error, "kind", "unreadable")
            problems.append(DatasetIssue(label_id, relative, kind, str(error)))
    labels.sort(key=lambda label: natural_key(label.id))
    return SubmittedLabels(labels, problems)


def import_submitted_labels(
    studies: str | Path, out: str | Path, tag: str = "final", *, overwrite: bool = False
) -> LabelImport:
    """Write the labels of a tag as a plain folder, which ``busi-monai prepare`` reads.

    The folder holds ``images`` (as found: a DICOM file keeps its header), ``masks`` (0 and 255),
    ``labels.csv`` (image, label, annotator, submitted, model), ``provenance.json`` with all that
    is known of each label, and ``run.json``.

    Args:
        studies: the server's folder; not written to.
        out: the folder to make; not made if no label can be used.
        tag: ``final`` is what annotators submit.
        overwrite: replace an earlier import.

    Raises:
        InputError: as ``read_submitted_labels``, or if ``out`` is refused.
    """
    record = RunRecord()
    submitted = read_submitted_labels(studies, tag)
    counts = {name: sum(label.class_name == name for label in submitted.labels) for name in CLASSES}
    for problem in submitted.problems:
        record.fail(problem.file, problem.message)
    if not submitted.labels:
        return LabelImport(None, tag, counts, submitted.problems)
    _check_apart(Path(studies), Path(out))
    with output_folder(out, "label-import", reads=[studies], overwrite=overwrite) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        for label in submitted.labels:
            shutil.copyfile(label.image, folder / "images" / label.image.name)
            if label.lesion_pixels:
                mask = read_label_values(label.label) > 0
                write_mask(folder / "masks" / f"{label.id}.png", mask)
        _write_table(folder / "labels.csv", submitted)
        write_json(folder / PROVENANCE_NAME, _provenance(submitted, tag))
        record.write(folder, {"studies": str(studies), "tag": tag, "labels": counts})
    return LabelImport(Path(out), tag, counts, submitted.problems)


def class_of_label(info: Mapping[str, Any], values: NDArray[np.integer[Any]]) -> str | None:
    """Return the class that was submitted with a label, or ``None`` if none was.

    Args:
        info: what the viewer submitted: ``class``, or ``params`` with it, or ``label_info``, the
            list of segments (``{"name": "benign", "idx": 1}``) that 3D Slicer sends.
        values: (H, W) whole numbers as drawn.

    Raises:
        InputError: if the class has no such name, or segments of several classes are drawn.

    Examples:
        >>> drawn = np.eye(3, dtype=int)
        >>> class_of_label({"class": "Benign"}, drawn), class_of_label({}, 0 * drawn)
        ('benign', 'normal')
        >>> class_of_label({"label_info": [{"name": "malignant", "idx": 1}]}, drawn)
        'malignant'
    """
    name = submitted_class(info)
    if name is not None:
        return name
    if not values.any():
        return NORMAL
    segments = info.get("label_info")
    names = {
        known_class(str(segment.get("name", "")))
        for segment in (segments if isinstance(segments, list) else ())
        if isinstance(segment, Mapping) and bool((values == segment.get("idx")).any())
    } - {None}
    if len(names) > 1:
        told = ", ".join(sorted(str(name) for name in names))
        raise InputError(f"segments of several classes are drawn ({told}): keep one of them")
    return names.pop() if names else None


def submitted_class(info: Mapping[str, Any]) -> str | None:
    """Return the class that was submitted by its name, as ``class`` or in ``params``.

    Raises:
        InputError: if there is no such class.
    """
    said = info.get("class")
    params = info.get("params")
    if said is None and isinstance(params, Mapping):
        said = params.get("class")
    if said is None:
        return None
    name = known_class(str(said))
    if name is None:
        raise InputError(f"class {said!r}: expected {', '.join(CLASSES)}")
    return name


def _read_label(label_id: str, image: Path, path: Path, info: Mapping[str, Any]) -> SubmittedLabel:
    values = read_label_values(path)
    size = read_image(image).pixels.shape
    if values.shape != size:
        raise ImageReadError(
            f"the label is {values.shape[1]}×{values.shape[0]} pixels, its image "
            f"{size[1]}×{size[0]}",
            "size_mismatch",
        )
    name = class_of_label(info, values)
    if name is None:
        raise ImageReadError(
            "no class: submit it as the parameter class, or name the segment after it "
            f"({', '.join(CLASSES)})",
            "unknown_class",
        )
    pixels = int(np.count_nonzero(values))
    if name == NORMAL and pixels:
        raise ImageReadError(
            f"normal, but {pixels} pixels are drawn: submit one or the other", "normal_with_mask"
        )
    if name != NORMAL and not pixels:
        raise ImageReadError(f"{name}, but nothing is drawn: outline the lesion", "empty_mask")
    who = info.get("annotator") or info.get("user") or info.get("client_id")
    model = info.get("served")
    return SubmittedLabel(
        id=label_id,
        image=image,
        label=path,
        class_name=name,
        lesion_pixels=pixels,
        size=(int(size[0]), int(size[1])),
        annotator=None if who is None else str(who),
        submitted=_utc(info.get("ts")),
        model=dict(model) if isinstance(model, Mapping) else {},
    )


def _label_files(folder: Path) -> dict[str, list[Path]]:
    """Return the label files by id, the last written first where an id has several."""
    found: dict[str, list[Path]] = {}
    for path in visible_files(folder):
        if path.name.lower().endswith(LABEL_SUFFIXES):
            found.setdefault(_label_id(path), []).append(path)
    for paths in found.values():
        paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {id: found[id] for id in sorted(found, key=natural_key)}


def _label_id(path: Path) -> str:
    return path.stem if path.suffix.lower() == ".nrrd" else image_stem(path)


def _image_of(
    studies: Path, label_id: str, entries: Mapping[str, Any], images: Mapping[str, Path]
) -> Path | None:
    image = _part(_part(entries, label_id), "image")
    named = studies / f"{label_id}{image.get('ext', '')}"
    return named if image and named.is_file() else images.get(label_id)


def _info_of(folder: Path, entries: Mapping[str, Any], label_id: str, tag: str) -> dict[str, Any]:
    stock = _part(_part(_part(_part(entries, label_id), "labels"), tag), "info")
    own = folder / f"{label_id}.json"
    kept = read_json(own) if own.is_file() else {}
    return {**stock, **(kept if isinstance(kept, Mapping) else {})}


def _datastore_entries(studies: Path) -> Mapping[str, Any]:
    path = studies / DATASTORE_NAME
    return _part(read_json(path), "objects") if path.is_file() else {}


def _part(content: Any, name: str) -> Mapping[str, Any]:
    part = content.get(name) if isinstance(content, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _utc(seconds: Any) -> str | None:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _check_apart(studies: Path, out: Path) -> None:
    if lie_within_each_other(studies, out):
        raise InputError(
            f"--out {out} and the studies {studies} lie within each other; choose a folder outside "
            "them, so that the server does not take the copies for images of its own"
        )


def _write_table(path: Path, submitted: SubmittedLabels) -> None:
    rows = [
        (each.image.name, each.class_name, each.annotator, each.submitted,
         str(each.model.get("weights_sha256", ""))[:12])
        for each in submitted.labels
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["image", "label", *PROVENANCE_COLUMNS])
    table.to_csv(path, index=False, lineterminator="\n")


def _provenance(submitted: SubmittedLabels, tag: str) -> dict[str, Any]:
    def told(label: SubmittedLabel) -> dict[str, Any]:
        names = {"image": label.image.name, "label": label.label.name, "size": list(label.size)}
        return {**asdict(label), **names}

    return {
        "tag": tag,
        "labels": [told(label) for label in submitted.labels],
        "left_out": [problem.as_dict() for problem in submitted.problems],
    }
