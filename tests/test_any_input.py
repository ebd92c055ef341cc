"""Generated datasets and files of every kind: nothing ends in a traceback, nothing is lost."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from busi_monai.cases import CLASSES
from busi_monai.cli.main import main
from busi_monai.io.image_files import image_stem, safe_id

EXAMPLES = 250
PARTS = 4

SIZE = (24, 36)
IMAGES = {
    "png": "L", "jpg": "L", "bmp": "RGB", "tif": "L", "webp": "RGB", "gif": "P", "ppm": "RGB",
}  # fmt: skip
DAMAGED = ("empty", "text", "cut", "animated")
MASKS = ("0,255", "0,1", "0,1,2", "soft", "void", "inverted", "zeros", "ones", "colour", "small")
NAMES = st.one_of(
    st.sampled_from(
        ["1", "01", "A", "a", "scan", "benign (1)", "x_mask", "two\nlines", "[1]*", "#"]
    ),
    st.text(string.ascii_letters + " -_.()é乳", min_size=1, max_size=8),
    st.sampled_from([b"l\xe4sion", 230 * b"x"]).map(os.fsdecode),
)
STRAYS = ("notes.txt", "Thumbs.db", ".hidden.png", "photo.heic", "film.mp4", "table.csv", "x.json")


def pixels(kind: str, number: int) -> np.ndarray:
    draw = np.random.default_rng(number)
    grey = draw.integers(0, 256, SIZE, dtype=np.uint8)
    return np.stack([grey, grey, 255 - grey], axis=-1) if IMAGES[kind] == "RGB" else grey


def write_image(path: Path, kind: str, damage: str | None, number: int) -> None:
    image = Image.fromarray(pixels(kind, number))
    if damage == "animated":
        image.save(path, format="TIFF", save_all=True, append_images=[image])
        return
    image.convert(IMAGES[kind]).save(path, format=Image.registered_extensions()[f".{kind}"])
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no image")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:60])


def mask_pixels(kind: str) -> np.ndarray:
    lesion = np.zeros(SIZE, dtype=bool)
    lesion[6:14, 9:21] = True
    if kind == "0,1,2":
        return np.where(lesion, np.where(np.arange(SIZE[1]) < 15, 1, 2), 0).astype(np.uint8)
    if kind == "soft":
        return np.where(lesion, 200, np.arange(SIZE[1]) % 40).astype(np.uint8)
    if kind == "void":
        return np.where(lesion, 1, np.where(np.arange(SIZE[0])[:, None] == 5, 255, 0)).astype("u1")
    if kind == "inverted":
        return np.where(lesion, 0, 255).astype(np.uint8)
    if kind == "colour":
        return np.where(lesion[..., None], (255, 0, 0), 0).astype(np.uint8)
    values = {"0,255": lesion * 255, "0,1": lesion, "zeros": lesion * 0, "ones": lesion * 0 + 1}
    return values.get(kind, lesion[:10] * 255).astype(np.uint8)


@st.composite
def images(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "name": draw(NAMES),
        "kind": draw(st.sampled_from(sorted(IMAGES))),
        "damage": draw(st.sampled_from((None, None, None, *DAMAGED))),
        "class": draw(st.sampled_from(CLASSES)),
        "mask": draw(st.sampled_from((None, *MASKS, "0,255", "0,255", "0,255"))),
        "folder": draw(st.sampled_from(("", "", "p1", "p2"))),
    }


@st.composite
def datasets(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "layout": draw(st.sampled_from(("busi", "folder", "split", "yolo", "coco", "flat"))),
        "images": draw(st.lists(images(), max_size=7)),
        "strays": draw(st.lists(st.sampled_from(STRAYS), max_size=2, unique=True)),
        "archived": draw(st.sampled_from((False, False, True))),
        "table": draw(
            st.sampled_from(
                (None, "image,label", "Image;Label", "id,class", "image,label 0=normal")
            )
        ),
    }


def write_dataset(root: Path, dataset: dict[str, Any]) -> None:
    root.mkdir()
    rows = []
    drawn: list[dict[str, Any]] = []
    for number, image in enumerate(dataset["images"]):
        folder, masks = root, root
        if dataset["layout"] == "busi":
            folder = masks = root / image["class"]
        elif dataset["layout"] == "split":
            part = ("train", "val", "test")[number % 3]
            folder = masks = root / part / image["class"]
        elif dataset["layout"] in {"folder", "yolo"}:
            folder, masks = root / "images" / image["folder"], root / "masks" / image["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{image['name']}.{image['kind']}"
        write_image(path, image["kind"], image["damage"], number)
        rows.append((path.name, image["class"]))
        if image["mask"] is None:
            continue
        if dataset["layout"] == "coco":
            drawn.append({"file_name": path.name, "class": image["class"], "mask": image["mask"]})
            continue
        if dataset["layout"] == "yolo":
            label = root / "labels" / image["folder"] / f"{image['name']}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("1 0.2 0.2 0.6 0.2 0.6 0.9\n")
            continue
        masks.mkdir(parents=True, exist_ok=True)
        name = f"{image['name']}_mask.png" if masks == folder else f"{image['name']}.png"
        Image.fromarray(mask_pixels(image["mask"])).save(masks / name)
    if dataset["layout"] == "coco":
        write_coco(root / "annotations.json", drawn)
    if dataset["table"] is not None:
        mark = ";" if ";" in dataset["table"] else ","
        with (root / "labels.csv").open("w", encoding="utf-8", errors="replace", newline="") as out:
            csv.writer(out, delimiter=mark).writerows([dataset["table"].split(mark), *rows])
    for name in dataset["strays"]:
        (root / name).write_bytes(b"{}")


def write_coco(path: Path, drawn: list[dict[str, Any]]) -> None:
    """Write outlines, for some kinds of mask damaged ones."""
    outline = [9, 6, 21, 6, 21, 14, 9, 14]
    shapes = {"small": [[1, 2]], "soft": {"counts": [5], "size": [9, 9]}, "ones": outline}
    images = [
        {"id": number, "file_name": entry["file_name"], "height": SIZE[0], "width": SIZE[1]}
        for number, entry in enumerate(drawn)
    ]
    annotations = [
        {
            "id": number,
            "image_id": [number] if entry["mask"] == "void" else number,
            "category_id": CLASSES.index(entry["class"]),
            "segmentation": shapes.get(entry["mask"], [outline]),
        }
        for number, entry in enumerate(drawn)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def hashes(folder: Path) -> dict[bytes, str]:
    return {
        os.fsencode(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code in {0, 1, 2}, result.output
    if result.exit_code:
        assert result.stderr.strip(), "a failure says why"
    return result


def visible(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        hidden = path.name.startswith(".") or path.name.lower() == "thumbs.db"
        if path.is_file() and not hidden:
            yield path.relative_to(root).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_audit_prepare_and_predict_use_or_name_every_file_and_change_none(
    part: int, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the figures take longest, and show what the rest found
    monkeypatch.setattr("busi_monai.curation.prepare.write_audit", lambda audit, out: [])
    numbers = iter(range(10**6))

    @seed(part)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking an example takes minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(dataset=datasets())
    def check(dataset: dict[str, Any]) -> None:
        place = tmp_path / str(next(numbers))
        place.mkdir()
        (place / "thesis.txt").write_text("mine")
        root = place / "in"
        write_dataset(root, dataset)
        (place / "out").mkdir()
        (place / "out" / "thesis.txt").write_text("mine too")
        before = hashes(place)
        check_audit(root)
        check_prepare(root, place / "prepared")
        check_predict(root, place / "predicted", tiny_bundle)
        if dataset["archived"]:
            archive = shutil.make_archive(str(place / "in"), "gztar", root)
            run("prepare", archive, "--out", place / "unpacked", "--quiet")
            run("predict", archive, "--out", place / "read", "--model", tiny_bundle, "--quiet")
        command = ("audit", "prepare", "predict")[len(dataset["images"]) % 3]
        result = run(command, root, "--out", place / "out", "--quiet", "--overwrite")
        assert result.exit_code == 2  # the folder holds something else
        assert before.items() <= hashes(place).items()
        shutil.rmtree(place)

    check()


def check_audit(root: Path) -> None:
    result = run("audit", root, "--json")
    if result.exit_code == 2:
        return
    found = json.loads(result.stdout)
    read = named_by_reader(root)
    told = {problem["file"] for problem in found["problems"]}
    # an entry of an annotation file names its image by the id, and the mask of an image that is
    # left out goes with it
    stems = {Path(name).stem for name in told} | {problem["id"] for problem in found["problems"]}
    for file in visible(root):
        inside = any(file.startswith(f"{name}/") for name in told)
        stem = image_stem(file)
        beside = stems & {stem, stem.removesuffix("_mask"), safe_id(stem)}
        assert file in read or file in told or inside or beside, f"{file!r}: not used, not named"


def named_by_reader(root: Path) -> set[str]:
    from busi_monai.datasets import read_dataset
    from busi_monai.outlines import mask_file

    listing = read_dataset(root)
    used = {mask_file(mask) for case in listing.cases for mask in case.masks}
    used |= {case.image for case in listing.cases}
    tables = {"labels.csv", "annotations.json"}  # read, whatever becomes of their images
    return {path.relative_to(root).as_posix() for path in used} | tables


def check_prepare(root: Path, out: Path) -> None:
    from busi_monai.datasets import read_dataset

    result = run("prepare", root, "--out", out, "--json")
    if result.exit_code == 2:
        assert not (out / "datalist.json").exists()
        return
    summary = json.loads(result.stdout)
    datalist = json.loads((out / "datalist.json").read_text(encoding="utf-8"))
    kept = {item["id"] for name in ("training", "validation", "test") for item in datalist[name]}
    excluded = {entry["id"] for entry in datalist["excluded"]}
    assert {case.id for case in read_dataset(root).cases} == kept | excluded
    assert not kept & excluded
    stored = {
        item["image"] for name in ("training", "validation", "test") for item in datalist[name]
    }
    assert {path.relative_to(out).as_posix() for path in (out / "images").iterdir()} == stored
    assert bool(summary["failures"]) == (result.exit_code == 1)


def check_predict(root: Path, out: Path, bundle: Path) -> None:
    folders = sorted({path.parent for path in root.rglob("*") if path.is_file()})
    if not folders:
        return
    result = run("predict", folders[0], "--out", out, "--model", bundle, "--json")
    if not (out / "predictions.csv").exists():
        assert result.exit_code != 0
        return
    summary = json.loads(result.stdout)
    files = [path for path in folders[0].iterdir() if path.is_file()]
    seen = [path for path in files if not path.name.startswith(".") and path.name != "Thumbs.db"]
    left_out = sum(n for kind, n in summary["left_out"].items() if kind != "subfolder")
    told = summary["predicted"] + len(summary["failures"]) + summary["skipped_masks"] + left_out
    assert told == len(seen)
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["id"].casefold() for row in rows}) == len(rows)
    assert all((out / "masks" / f"{row['id']}.png").is_file() for row in rows if not row["error"])
