"""Annotation files beside the images: COCO's JSON, LabelMe's JSON, YOLO's polygons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from busi_monai.cases import DatasetIssue
from busi_monai.datasets.annotation_entries import (
    coco_outline,
    entry_id,
    labelme_points,
    stated_size,
    yolo_polygon,
)
from busi_monai.datasets.annotation_places import (
    ImagePaths,
    is_coco_name,
    yolo_folders,
)
from busi_monai.datasets.listing import problem, visible_files
from busi_monai.io.images import is_image_file
from busi_monai.outlines import Outline

__all__ = ["Annotated", "Annotation", "read_annotations"]

_YOLO_CLASSES = "classes.txt"


@dataclass(frozen=True)
class Annotation:
    """One entry of an annotation file for one image.

    Attributes:
        category: as the file names it; a class or not.
        outline: what was drawn.
        fault: why the entry cannot be used; ``outline`` then tells its place only.
    """

    category: str
    outline: Outline
    fault: str = ""


@dataclass
class Annotated:
    """What annotation files say of a folder's images.

    Attributes:
        images: annotations by image; an image that a file lists without any has an empty list.
        files: the annotation files that were read.
        hint: what to tell where a category is no class.
    """

    images: dict[Path, list[Annotation]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    hint: str = ""


def read_annotations(root: Path, problems: list[DatasetIssue]) -> Annotated | None:
    """Read all annotation files below a folder.

    - COCO: a JSON of any name with ``images``, ``annotations`` and ``categories``; polygons and run
      lengths (also of crowds). How an image is found, see ``ImagePaths.find``.
    - LabelMe: ``x.json`` beside ``x.png``, or an image that ``imagePath`` names; polygons,
      rectangles and circles.
    - YOLO: ``labels/x.txt`` for ``images/x.png``, polygons in fractions; the categories' names from
      ``names`` in a YAML file, or from ``classes.txt``.

    A rectangle of LabelMe is a shape that a person drew; boxes of COCO and YOLO are no outlines.

    Args:
        root: the dataset's folder.
        problems: gets what cannot be used: ``annotation`` for files and entries of no image,
            ``missing_image`` for annotations of an image that is not there, ``outside_image`` for
            polygons that reach beyond their image and are cut off there.

    Returns:
        ``None`` where there is no annotation file.
    """
    reading = _Reading(root, problems)
    reading.read_jsons()
    folders = yolo_folders(root)
    if folders:
        reading.read_yolo(folders)
    return reading.found if reading.found.files else None


class _Reading:
    """The annotation files of one folder while they are read."""

    def __init__(self, root: Path, problems: list[DatasetIssue]) -> None:
        self.root = root
        self.problems = problems
        self.found = Annotated()
        self._files = list(visible_files(root, recursive=True)) if root.is_dir() else []
        self._images = ImagePaths(root, [path for path in self._files if is_image_file(path)])
        self._taken: set[tuple[object, ...]] = set()

    def read_jsons(self) -> None:
        """Read the JSON files; one that is no annotation file is passed over."""
        for path in self._files:
            if path.suffix.lower() == ".json":
                self._read_json(path)

    def _read_json(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            if is_coco_name(path) or self._images.beside(path)[0]:
                self.found.files.append(path)
                self._report("annotation", path, f"not readable as JSON ({reason})")
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
        names: dict[str, str] = {}
        for entry in self._entries(path, content, "categories"):
            number, name = entry_id(entry.get("id")), str(entry.get("name") or entry.get("id"))
            if number is None or names.setdefault(number, name) != name:
                message = f"category {name!r} has no id of its own"
                self._report("annotation", path, f"{message}; give each category another id")
                names[str(number)] = f"category {number}"
        images = self._coco_images(path, content)
        lost = 0
        for entry in self._entries(path, content, "annotations"):
            listed = entry_id(entry.get("image_id"))
            image, size = images.get(listed, (None, None))
            if image is None:
                lost += listed not in images
                continue
            stated = entry.get("id")
            label = f"annotation {stated if isinstance(stated, int) else _cut(stated)}"
            number = entry_id(entry.get("category_id"))
            category = "" if number is None else names.get(number, number)
            try:
                self._take(image, category, coco_outline(path, label, entry, size))
            except ValueError as error:
                self._refuse(image, category, path, label, error)
        if lost:
            self._report("annotation", path, f"{lost} annotations of images that it does not list")

    def _coco_images(
        self, path: Path, content: Mapping[str, Any]
    ) -> dict[str | None, tuple[Path | None, tuple[int, int] | None]]:
        """Return the images that a file of COCO lists by id, each with its stated size."""
        images: dict[str | None, tuple[Path | None, tuple[int, int] | None]] = {}
        for entry in self._entries(path, content, "images"):
            name = str(entry.get("file_name") or "")
            number = entry_id(entry.get("id"))
            image = self._image(path, name, "lists")
            if image is None:
                images[number] = None, None
                continue
            self.found.images.setdefault(image, [])
            other = images.get(number, (image, None))[0]
            if number is None or other != image:
                images[number] = None, None
                fault = "an image needs an id of its own; export the annotations again"
                for one in dict.fromkeys(filter(None, (image, other))):
                    self._refuse(one, "", path, f"the id {_cut(number)} of {one.name}", fault)
                continue
            images[number] = image, stated_size(entry.get("height"), entry.get("width"))
        return images

    def _read_labelme(self, path: Path, content: Mapping[str, Any]) -> None:
        name = str(content.get("imagePath") or "")
        image, other = self._images.beside(path, name)
        if image is not None and other is not None:
            told = f"lies beside {image.name}, but annotates {other.relative_to(self.root)}"
            self._refuse(image, "", path, "imagePath", f"{told}; mend the one or the other")
            return
        image = image or self._image(path, name, "annotates")
        if image is None:
            return
        size = stated_size(content.get("imageHeight"), content.get("imageWidth"))
        self.found.images.setdefault(image, [])
        for number, shape in enumerate(self._entries(path, content, "shapes", image), start=1):
            label, category = f"shape {number}", str(shape.get("label") or "")
            try:
                points = labelme_points(shape)
            except ValueError as error:
                self._refuse(image, category, path, label, error)
                continue
            self._take(image, category, Outline(path, label, (points,), size=size))

    def read_yolo(self, folders: list[tuple[Path, Path]]) -> None:
        """Read the text files of each ``labels`` for the images of its ``images``."""
        names = self._yolo_names([labels for _, labels in folders])
        for images, labels in folders:
            for path in visible_files(labels, recursive=True):
                if path.suffix.lower() != ".txt" or path.name.lower() == _YOLO_CLASSES:
                    continue
                self.found.files.append(path)
                stem = PurePosixPath(path.relative_to(labels).with_suffix("").as_posix())
                image = self._images.of_stem(images, stem)
                if image is None:
                    self._report("missing_image", path, "annotates an image that is not in images")
                    continue
                self._read_yolo_lines(path, image, names)

    def _read_yolo_lines(self, path: Path, image: Path, names: Mapping[int, str]) -> None:
        self.found.images.setdefault(image, [])
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            index = line.split()[0].removesuffix(".0")
            category = names.get(int(index), index) if index.isdecimal() else ""
            try:
                polygon = yolo_polygon(line)
            except ValueError as error:
                self._refuse(image, category, path, f"line {number}", error)
                continue
            outline = Outline(path, f"line {number}", (polygon,), relative=True)
            self._take(image, category, outline)

    def _yolo_names(self, labels: list[Path]) -> dict[int, str]:
        """Return the categories' names from the first file that has some."""
        places = [self.root, *dict.fromkeys(folder.parent for folder in labels), *labels]
        files = [path for folder in dict.fromkeys(places) for path in visible_files(folder)]
        found: dict[int, str] = {}
        unreadable: dict[Path, str] = {}
        for path in files:
            if path.suffix.lower() in {".yaml", ".yml"}:
                try:
                    names = _names_in(path)
                except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
                    unreadable[path] = f"no readable list of names ({error})"
                    continue
            elif path.name.lower() == _YOLO_CLASSES:
                lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
                names = dict(enumerate(line.strip() for line in lines if line.strip()))
            else:
                continue
            if names is not None:
                self.found.files.append(path)
                found = found or names
        if not found:
            for path, message in unreadable.items():
                self.found.files.append(path)
                self._report("annotation", path, message)
            self.found.hint = (
                "no names of YOLO's numbers were found, neither names: in a YAML file (data.yaml) "
                f"nor {_YOLO_CLASSES}, both looked for in the dataset's folder and in labels"
            )
        return found

    def _take(self, image: Path, category: str, outline: Outline) -> None:
        """Add an outline to those of its image, unless another file has the same."""
        drawn = (image, category, outline.polygons, outline.runs, outline.size, outline.relative)
        if drawn in self._taken:
            return
        self._taken.add(drawn)
        self.found.images.setdefault(image, []).append(Annotation(category, outline))
        if outline.reaches_beyond():
            message = f"{outline.entry} reaches beyond its image, and is cut off there"
            self._report("outside_image", outline.file, message)

    def _refuse(
        self, image: Path, category: str, file: Path, label: str, fault: ValueError | str
    ) -> None:
        entry = Annotation(category, Outline(file, label), str(fault))
        self.found.images.setdefault(image, []).append(entry)

    def _image(self, file: Path, name: str, verb: str) -> Path | None:
        found = self._images.find(file, name)
        if len(found) == 1:
            return found[0]
        message = f"{verb} the image {_cut(name)}, which is not there"
        if found:
            shown = ", ".join(path.relative_to(self.root).as_posix() for path in found)
            message = f"{verb} the image {_cut(name)}; several images of that name: {shown}"
        self._report("missing_image", file, message)
        return None

    def _entries(
        self, file: Path, content: Mapping[str, Any], key: str, image: Path | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the entries of a list, and report what stands there instead."""
        value = content.get(key, [])
        entries = value if isinstance(value, list) else [value]
        for number, entry in enumerate(entries, start=1):
            if isinstance(value, list) and isinstance(entry, dict):
                yield entry
                continue
            fault = f"expected a list of objects, found {_cut(entry)}"
            if image is None:
                self._report("annotation", file, f"{key}, entry {number}: {fault}")
            else:
                self._refuse(image, "", file, f"{key}, entry {number}", fault)

    def _report(self, kind: str, path: Path, message: str) -> None:
        self.problems.append(problem(self.root, kind, path, message))


def _names_in(path: Path) -> dict[int, str] | None:
    """Return the ``names`` of a YAML file by number, or ``None`` where it has none."""
    content = yaml.safe_load(path.read_bytes())
    stated = content.get("names") if isinstance(content, dict) else None
    if stated is None:
        return None
    pairs = stated.items() if isinstance(stated, dict) else enumerate(stated)
    return {int(index): str(word) for index, word in pairs}


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
