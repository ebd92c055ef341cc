"""Annotation files beside the images: COCO's JSON, LabelMe's JSON, YOLO's polygons."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from busi_monai.cases import Problem
from busi_monai.datasets.listing import (
    case_stem,
    child_folder,
    own_part,
    problem,
    visible_files,
)
from busi_monai.images import is_image_file
from busi_monai.outlines import Outline, Point, unpacked_runs

__all__ = ["Annotated", "Annotation", "has_annotations", "read_annotations"]

_COCO_NAMES = ("coco", "annotation", "instances")
_YOLO_LABELS = "labels"
_YOLO_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


@dataclass(frozen=True)
class Annotation:
    """One outline of an image with its category.

    Attributes:
        category: as the file names it; a class or not.
        outline: what was drawn.
    """

    category: str
    outline: Outline


@dataclass
class Annotated:
    """What annotation files say of a folder's images.

    Attributes:
        images: annotations by image; an image that a file lists without any has an empty list.
        files: the annotation files that were read.
    """

    images: dict[Path, list[Annotation]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def add(self, image: Path, annotations: Iterable[Annotation]) -> None:
        """Add annotations of an image to those that are there."""
        self.images.setdefault(image, []).extend(annotations)


def has_annotations(root: Path) -> bool:
    """Whether a folder holds annotations, judged by names alone."""
    if _yolo_folders(root) is not None:
        return True
    files = [path for folder in _places(root) for path in visible_files(folder)]
    images = {path.with_suffix("") for path in files if is_image_file(path)}
    tables = [path for path in files if path.suffix.lower() == ".json"]
    return any(path.with_suffix("") in images for path in tables) or (
        bool(images) and any(_is_coco_name(path) for path in tables)
    )


def read_annotations(root: Path, problems: list[Problem]) -> Annotated | None:
    """Read all annotation files below a folder.

    - COCO: a JSON with ``images``, ``annotations`` and ``categories``; polygons and run lengths
      (also of crowds). An image is found by its path from the file's folder, from the root or from
      ``images``, else by its name where only one image has it.
    - LabelMe: ``x.json`` beside ``x.png``; polygons, rectangles, circles and masks given as points.
    - YOLO: ``labels/x.txt`` for ``images/x.png``, polygons in fractions; the categories' names from
      ``data.yaml`` or ``classes.txt``.

    Args:
        root: the dataset's folder.
        problems: gets what cannot be used: ``annotation`` for files and entries, ``missing_image``
            for annotations of an image that is not there, ``outside_image`` for polygons that reach
            beyond their image and are cut off there.

    Returns:
        ``None`` where there is no annotation file.
    """
    reading = _Reading(root, problems)
    for path in _json_files(root):
        reading.read_json(path)
    folders = _yolo_folders(root)
    if folders is not None:
        reading.read_yolo(*folders)
    return reading.found if reading.found.files else None


class _Reading:
    """The annotation files of one folder while they are read."""

    def __init__(self, root: Path, problems: list[Problem]) -> None:
        self.root = root
        self.problems = problems
        self.found = Annotated()
        self._images = [path for path in _files(root) if is_image_file(path)]
        self._by_name: dict[str, list[Path]] = {}
        for path in self._images:
            self._by_name.setdefault(path.name.casefold(), []).append(path)

    def read_json(self, path: Path) -> None:
        """Read one JSON file; one that is no annotation file is passed over."""
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            if _is_coco_name(path) or self._beside(path):
                self._report("annotation", path, f"not readable as JSON ({error})")
            return
        if not isinstance(content, dict):
            return
        if {"images", "annotations"} <= content.keys():
            self.found.files.append(path)
            self._read_coco(path, content)
        elif "shapes" in content:
            self.found.files.append(path)
            self._read_labelme(path, content)

    def _read_coco(self, path: Path, content: Mapping[str, Any]) -> None:
        names = {
            entry.get("id"): str(entry.get("name", entry.get("id")))
            for entry in _entries(content.get("categories"))
        }
        images: dict[Any, tuple[Path, tuple[int, int] | None]] = {}
        for entry in _entries(content["images"]):
            name = str(entry.get("file_name", ""))
            image = self._image(path, name)
            if image is None:
                self._report("missing_image", path, f"lists the image {name!r}, which is not there")
                continue
            images[entry.get("id")] = image, _size(entry.get("height"), entry.get("width"))
            self.found.add(image, [])
        lost = 0
        for entry in _entries(content["annotations"]):
            image, size = images.get(entry.get("image_id"), (None, None))
            if image is None:
                lost += 1
                continue
            label = f"annotation {entry.get('id')}"
            try:
                outline = _coco_outline(path, label, entry, size)
            except (ValueError, TypeError) as error:
                self._report("annotation", path, f"{label}: {error}", image)
                continue
            category = names.get(entry.get("category_id"), str(entry.get("category_id")))
            self._take(image, category, outline)
        if lost:
            self._report("annotation", path, f"{lost} annotations of images that it does not list")

    def _read_labelme(self, path: Path, content: Mapping[str, Any]) -> None:
        image = self._beside(path) or self._image(path, str(content.get("imagePath") or ""))
        if image is None:
            name = content.get("imagePath")
            self._report("missing_image", path, f"annotates the image {name!r}, which is not there")
            return
        size = _size(content.get("imageHeight"), content.get("imageWidth"))
        self.found.add(image, [])
        for number, shape in enumerate(_entries(content["shapes"]), start=1):
            label = f"shape {number}"
            try:
                points = _labelme_points(shape)
            except (ValueError, TypeError) as error:
                self._report("annotation", path, f"{label}: {error}", image)
                continue
            outline = Outline(path, label, (points,), size=size)
            self._take(image, str(shape.get("label", "")), outline)

    def read_yolo(self, images: Path, labels: Path) -> None:
        """Read the text files of ``labels`` for the images of ``images``."""
        names = self._yolo_names()
        by_stem = {
            path.relative_to(images).with_name(case_stem(path)): path
            for path in self._images
            if path.is_relative_to(images)
        }
        for path in visible_files(labels, recursive=True):
            if path.suffix.lower() != ".txt" or path.name.lower() == "classes.txt":
                continue
            self.found.files.append(path)
            image = by_stem.get(path.relative_to(labels).with_suffix(""))
            if image is None:
                self._report("missing_image", path, "annotates an image that is not in images")
                continue
            self.found.add(image, [])
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    index, polygon = _yolo_polygon(line)
                except ValueError as error:
                    self._report("annotation", path, f"line {number}: {error}", image)
                    continue
                outline = Outline(path, f"line {number}", (polygon,), relative=True)
                self._take(image, names.get(index, str(index)), outline)

    def _yolo_names(self) -> dict[int, str]:
        for name in _YOLO_NAMES:
            path = self.root / name
            if not path.is_file():
                continue
            try:
                stated = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("names")
                pairs = stated.items() if isinstance(stated, dict) else enumerate(stated or ())
                return {int(index): str(word) for index, word in pairs}
            except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
                self._report("annotation", path, f"no readable list of names ({error})")
        for path in (self.root / "classes.txt", self.root / _YOLO_LABELS / "classes.txt"):
            if path.is_file():
                lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
                return dict(enumerate(line.strip() for line in lines if line.strip()))
        return {}

    def _take(self, image: Path, category: str, outline: Outline) -> None:
        self.found.add(image, [Annotation(category, outline)])
        if outline.reaches_beyond():
            message = f"{outline.entry} reaches beyond its image, and is cut off there"
            self._report("outside_image", outline.file, message, image)

    def _image(self, annotations: Path, name: str) -> Path | None:
        """Return the image of a name, which may hold folders, in either kind of slashes."""
        parts = PurePosixPath(name.replace("\\", "/"))
        if not parts.name:
            return None
        for base in (annotations.parent, self.root, child_folder(self.root, "images")):
            if base is not None and not parts.is_absolute() and (base / parts).is_file():
                path = base / parts
                if path.resolve().is_relative_to(self.root.resolve()):
                    return next((one for one in self._images if one.samefile(path)), None)
        alike = self._by_name.get(parts.name.casefold(), [])
        return alike[0] if len(alike) == 1 else None

    def _beside(self, path: Path) -> Path | None:
        stem = path.with_suffix("")
        return next((one for one in self._images if one.with_name(case_stem(one)) == stem), None)

    def _report(self, kind: str, path: Path, message: str, image: Path | None = None) -> None:
        case_id = case_stem(image) if image else ""
        self.problems.append(problem(self.root, kind, path, message, case_id))


def _coco_outline(
    path: Path, label: str, entry: Mapping[str, Any], size: tuple[int, int] | None
) -> Outline:
    drawn = entry.get("segmentation")
    if isinstance(drawn, Mapping):
        counts = drawn.get("counts", ())
        runs = unpacked_runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
        height, width = drawn.get("size", (None, None))
        return Outline(path, label, runs=tuple(runs), size=_size(height, width) or size)
    if not isinstance(drawn, Sequence) or not drawn:
        raise ValueError("no polygon and no run lengths; a box is no outline")
    return Outline(path, label, tuple(_pairs(polygon) for polygon in drawn), size=size)


def _labelme_points(shape: Mapping[str, Any]) -> tuple[Point, ...]:
    kind = shape.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in shape.get("points") or ()]
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError("coordinates are not finite")
    if kind == "rectangle" and len(points) >= 2:
        (left, top), (right, bottom) = points[0], points[-1] if len(points) == 2 else points[2]
        return (left, top), (right, top), (right, bottom), (left, bottom)
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [math.tau * step / 64 for step in range(64)]
        return tuple((x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns)
    if kind != "polygon":
        raise ValueError(f"a {kind} is no outline; expected polygon, rectangle or circle")
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points; expected at least 3")
    return tuple(points)


def _yolo_polygon(line: str) -> tuple[int, tuple[Point, ...]]:
    first, *rest = line.split()
    if len(rest) == 4:
        raise ValueError("a box is no outline; expected a polygon: class x1 y1 x2 y2 x3 y3 …")
    return int(first), _pairs(rest)


def _pairs(numbers: Sequence[Any]) -> tuple[Point, ...]:
    values = [float(number) for number in numbers]
    if len(values) < 6 or len(values) % 2 or not all(map(math.isfinite, values)):
        raise ValueError(
            f"a polygon of {len(values)} numbers; expected x and y of at least 3 points"
        )
    return tuple(zip(values[::2], values[1::2], strict=True))


def _entries(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, Mapping))


def _size(height: object, width: object) -> tuple[int, int] | None:
    sides = (height, width)
    if all(isinstance(side, int | float) and side >= 1 for side in sides):
        return int(height), int(width)  # type: ignore[call-overload]
    return None


def _places(root: Path) -> list[Path]:
    """Return the folders that annotations and their images are looked for in, to tell a layout."""
    if not root.is_dir():
        return []
    named = [path for name in ("images", "annotations") if (path := child_folder(root, name))]
    above = [root, *named[:1]]
    parts = [path for folder in above for path in folder.iterdir() if own_part(path.name)]
    return [root, *named, *(path for path in parts if path.is_dir())]


def _files(root: Path) -> list[Path]:
    return list(visible_files(root, recursive=True)) if root.is_dir() else []


def _json_files(root: Path) -> list[Path]:
    return [path for path in _files(root) if path.suffix.lower() == ".json"]


def _is_coco_name(path: Path) -> bool:
    return any(word in path.name.lower() for word in _COCO_NAMES)


def _yolo_folders(root: Path) -> tuple[Path, Path] | None:
    """Return ``images`` and ``labels`` where the second holds text files."""
    images, labels = child_folder(root, "images"), child_folder(root, _YOLO_LABELS)
    if images is None or labels is None:
        return None
    has_text = any(path.suffix.lower() == ".txt" for path in _files(labels))
    return (images, labels) if has_text else None
