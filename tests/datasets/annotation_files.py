"""Small folders with annotation files of each kind, for the tests of their readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from busi_monai.datasets import Listing
from busi_monai.io.images import write_png

SIZE = (40, 60)  # height, width
BOX = (10, 5, 30, 25)  # left, top, right, bottom
CORNERS = [(10, 5), (30, 5), (30, 25), (10, 25)]
FLAT = [float(value) for corner in CORNERS for value in corner]


def draw(path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    write_png(path, draw.integers(0, 255, SIZE).astype(np.uint8))


def box_mask() -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


def runs(mask: np.ndarray) -> list[int]:
    values = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(values, prepend=0))
    return np.diff([0, *edges, len(values)]).tolist()


def kinds(listing: Listing) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in listing.problems:
        found.setdefault(problem.kind, []).append(f"{problem.file} {problem.message}")
    return found


def coco(
    path: Path,
    drawn: dict[str, list[tuple[str, Any]]],
    categories: tuple[str, ...] = ("benign", "malignant", "mass"),
) -> None:
    """Write a COCO file of (category, segmentation) by image."""
    numbers = {name: number for number, name in enumerate(categories, start=1)}
    images = [
        {"id": 100 + number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for number, name in enumerate(drawn)
    ]
    annotations = [
        {
            "image_id": image["id"],
            "category_id": numbers[category],
            "segmentation": segmentation,
            "iscrowd": int(isinstance(segmentation, dict)),
        }
        for image, entries in zip(images, drawn.values(), strict=True)
        for category, segmentation in entries
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    named = [{"id": number, "name": name} for name, number in numbers.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": named}
    path.write_text(json.dumps(content), encoding="utf-8")


def labelme(path: Path, shapes: list[dict[str, Any]], **further: Any) -> None:
    content = {"shapes": shapes, "imagePath": path.with_suffix(".png").name, **further}
    path.write_text(json.dumps(content), encoding="utf-8")


def as_coco(root: Path) -> None:
    draw(root / "images" / "x1.png", 1)
    coco(root / "annotations" / "instances_all.json", {"x1.png": [("benign", [FLAT])]})


def as_coco_runs(root: Path) -> None:
    draw(root / "x1.png", 1)
    counts = {"counts": runs(box_mask()), "size": list(SIZE)}
    coco(root / "annotations.json", {"x1.png": [("benign", counts)]})


def as_coco_packed(root: Path) -> None:
    draw(root / "x1.png", 1)
    # the box, packed by pycocotools 2.0.11
    counts = {"counts": "e<d0d00000000000000000000000000000000000000[U1", "size": list(SIZE)}
    coco(root / "_annotations.coco.json", {"x1.png": [("benign", counts)]})


def as_labelme(root: Path) -> None:
    draw(root / "x1.png", 1)
    labelme(
        root / "x1.json",
        [{"label": "Benign", "points": CORNERS, "shape_type": "polygon"}],
        imageHeight=SIZE[0],
        imageWidth=SIZE[1],
    )


def as_labelme_rectangle(root: Path) -> None:
    draw(root / "images" / "x1.png", 1)
    shape = {"label": "benign", "points": [CORNERS[0], CORNERS[2]], "shape_type": "rectangle"}
    labelme(root / "images" / "x1.json", [shape])


def as_yolo(root: Path) -> None:
    draw(root / "images" / "train" / "x1.png", 1)
    line = " ".join(f"{x / SIZE[1]} {y / SIZE[0]}" for x, y in CORNERS)
    label = root / "labels" / "train" / "x1.txt"
    label.parent.mkdir(parents=True)
    label.write_text(f"1 {line}\n", encoding="utf-8")
    (root / "data.yaml").write_text("names: [malignant, benign]\n", encoding="utf-8")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
