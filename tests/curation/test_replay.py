from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from busi_monai.curation import (
    Audit,
    Datalist,
    PrepareOptions,
    PrepareSummary,
    load_datalist,
    prepare_dataset,
    verify_prepared,
)
from busi_monai.curation.datalist import find_split, shipped_splits
from busi_monai.curation.prepare import class_counts
from busi_monai.datasets import read_dataset
from busi_monai.errors import InputError
from busi_monai.files import file_sha256

Prepare = Callable[..., PrepareSummary]


@pytest.fixture(scope="module")
def published(folds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantoms' three folds under a name."""
    path = tmp_path_factory.mktemp("published") / "phantoms-v1.json"
    return replace(load_datalist(folds).without_label_hashes(), name="phantoms-v1").save(path)


def files_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / "run.json").read_text("utf-8"))["files"]


def split_of(folder: Path) -> bytes:
    """The split of a prepared folder as it would be published, without the masks' hashes."""
    path = folder.parent / "split.json"
    return load_datalist(folder).without_label_hashes().save(path).read_bytes()


def reencode(root: Path, names: dict[str, str]) -> None:
    """Write images of a dataset anew as RGB, each with the ending that is given for its path."""
    for name, ending in names.items():
        path = root / name
        with Image.open(path) as image:
            pixels = image.convert("RGB")
        path.unlink()
        pixels.save(path.with_suffix(ending))


def test_a_datalist_is_repeated_on_a_copy(defective: Path, tmp_path: Path, prepare: Prepare):
    first = prepare(defective, tmp_path / "first", multi_mask="split", seed=3)
    datalist = shutil.copy(tmp_path / "first/datalist.json", tmp_path / "any name.json")
    again = prepare(defective, tmp_path / "again", from_datalist=datalist)
    assert again.datalist == first.datalist and not again.unlisted
    assert (tmp_path / "again/datalist.json").read_bytes() == datalist.read_bytes()
    assert files_of(tmp_path / "again") == files_of(tmp_path / "first")


def test_other_encodings_of_the_same_pixels_give_the_same_datalist_with_its_name(
    phantom_busi: Path, folds: Path, published: Path, tmp_path: Path, prepare: Prepare
):
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    endings = {"benign/benign (1).png": ".png", "malignant/malignant (2).png": ".bmp"}
    reencode(copy, {**endings, "benign/benign (1)_mask.png": ".bmp"})
    summary = prepare(copy, tmp_path / "out", from_datalist=published)
    assert split_of(tmp_path / "out") == published.read_bytes()
    assert summary.datalist.labels_sha256 == load_datalist(folds).labels_sha256
    assert summary.datalist.sha256 == load_datalist(folds).sha256
    assert summary.as_dict()["name"] == "phantoms-v1"
    record = json.loads((tmp_path / "out/run.json").read_text("utf-8"))
    assert record["name"] == "phantoms-v1" and record["unlisted"] == []
    assert verify_prepared(tmp_path / "out").ok


def test_wrong_and_missing_images_are_named_and_nothing_is_written(
    phantom_busi: Path, published: Path, tmp_path: Path, prepare: Prepare
):
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    with Image.open(copy / "benign/benign (1).png") as image:
        pixels = image.convert("L")
    pixels.putpixel((5, 5), pixels.getpixel((5, 5)) ^ 1)
    pixels.save(copy / "benign/benign (1).png")
    (copy / "benign/benign (2).png").unlink()
    (copy / "benign/benign (3).png").rename(copy / "normal/benign (3).png")
    expected = (
        r"1 images that are missing or unusable here: benign \(2\); 1 images with other pixels: "
        r"benign \(1\); 1 images of another class: benign \(3\); get the original files"
    )
    with pytest.raises(InputError, match=expected):
        prepare(copy, tmp_path / "out", from_datalist=published)
    assert not (tmp_path / "out").exists()


def test_additional_images_are_left_out_and_told(
    phantom_busi: Path, published: Path, tmp_path: Path, prepare: Prepare
):
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    Image.linear_gradient("L").save(copy / "normal/normal (99).png")
    summary = prepare(copy, tmp_path / "out", from_datalist=published)
    assert summary.unlisted == summary.as_dict()["unlisted"] == ["normal (99)"]
    assert split_of(tmp_path / "out") == published.read_bytes()
    assert not (tmp_path / "out/images/normal (99).png").exists()


@pytest.mark.parametrize(
    ("name", "sha256", "counts", "groups"),
    [
        (
            "busi-leakfree-v1",
            "029685ead072e5820a4e8ef2ecf01b85e483de699ec315209b1d2243c5b76180",
            {
                "fold 0": (26, 85, 41),
                "fold 1": (26, 85, 41),
                "fold 2": (26, 86, 40),
                "fold 3": (26, 85, 41),
                "fold 4": (27, 85, 40),
            },
            [115, 114, 115, 115, 115],
        ),
        (
            "busi-leakfree-v1-holdout",
            "4c185f0fd2d653c5757c2cdd19cd3deee62ce21fc7a438b790ede52afebb3356",
            {"train": (105, 340, 163), "validation": (13, 43, 20), "test": (13, 43, 20)},
            [459, 57, 58],
        ),
    ],
)
def test_shipped_splits_hold_what_their_page_states(
    repository: Path,
    name: str,
    sha256: str,
    counts: dict[str, tuple[int, ...]],
    groups: list[int],
):
    datalist = load_datalist(find_split(name))
    assert (datalist.name, datalist.sha256) == (name, sha256)
    found = class_counts(datalist)
    assert {part: tuple(row.values()) for part, row in found.items()} == counts
    sides: dict[str, set[str]] = {}
    for item in datalist.records():
        part = item["split"] if item["fold"] is None else f"fold {item['fold']}"
        sides.setdefault(part, set()).add(item["group"])
    assert [len(sides[part]) for part in counts] == groups
    assert sum(groups) == len(set.union(*sides.values())) == 574  # none in two
    assert len(datalist.excluded) == 20 and datalist.leaks["count"] == 0
    page = (repository / "docs/results/busi-leakfree-v1.md").read_text("utf-8")
    assert sha256 in page
    for part, row, number in zip(counts, counts.values(), groups, strict=True):
        cells = (part, *row, sum(row), number)
        assert "| " + " | ".join(str(cell) for cell in cells) + " |" in page
    for entry in datalist.excluded:
        assert entry["id"] in page


def test_both_shipped_splits_divide_the_same_images_in_the_same_groups():
    both = [load_datalist(path) for path in shipped_splits().values()]
    kept = [
        {(r["id"], r["sha256"], r["group"], r["class_label"]) for r in one.records()}
        for one in both
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 760
    assert both[0].excluded == both[1].excluded
    sizes = Counter(Counter(group for _, _, group, _ in kept[0]).values())
    assert sizes == {1: 429, 2: 120, 3: 16, 4: 5, 5: 2, 6: 1, 7: 1}


def test_no_other_split_bears_the_name_of_a_shipped_one(tmp_path: Path):
    path = Datalist("external", 0, leaks=NO_LEAKS, name="busi-leakfree-v1").save(
        tmp_path / "x.json"
    )
    with pytest.raises(InputError, match="is called busi-leakfree-v1, but is not that split"):
        load_datalist(path)


NO_LEAKS = {"count": 0, "evaluation_images": 0, "ids": [], "parts": {}}


@pytest.mark.realdata
def test_real_busi_gives_the_shipped_split_again_however_it_is_encoded(
    real_busi: Path,
    busi_folds: Path,
    audit_of: Callable[[Path], Audit],
    without_figures: None,
    tmp_path: Path,
):
    copy = tmp_path / "busi"
    for path in real_busi.glob("*/*.png"):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / path.parent.name / path.name).symlink_to(path)
    changed = [f"{kind}/{kind} ({k}).png" for kind in ("normal", "benign") for k in range(2, 12)]
    reencode(copy, dict(zip(changed, [".png", ".bmp", ".tif", ".png"] * 5, strict=True)))
    audit = audit_of(real_busi)
    options = PrepareOptions(from_datalist="busi-leakfree-v1")
    for number, root in enumerate((real_busi, copy)):
        own = replace(audit, listing=read_dataset(root))
        out = tmp_path / f"out {number}"
        prepare_dataset(root, out, options, audit=own)
        assert split_of(out) == find_split("busi-leakfree-v1").read_bytes()
        assert load_datalist(out).labels_sha256 == load_datalist(busi_folds).labels_sha256
        different = {
            name for name, sha256 in files_of(out).items() if files_of(busi_folds)[name] != sha256
        }
        assert different == {f"images/{Path(name).name}" for name in changed * number}
    assert load_datalist(tmp_path / "out 1").sha256 == load_datalist(busi_folds).sha256


@pytest.mark.realdata
def test_real_busi_gives_the_shipped_splits_by_their_recipes(busi_folds: Path, busi_prepared: Path):
    for folder, name in (
        (busi_folds, "busi-leakfree-v1"),
        (busi_prepared, "busi-leakfree-v1-holdout"),
    ):
        split = load_datalist(folder).without_label_hashes()
        assert replace(split, name=name) == load_datalist(find_split(name))


def test_the_shipped_files_are_these_bytes():
    assert {name: file_sha256(path) for name, path in shipped_splits().items()} == {
        "busi-leakfree-v1": "ef0178ea62ec83d4e538a52799c4a5a06dd8fe850b64e0f20357724d48f8d15f",
        "busi-leakfree-v1-holdout": (
            "be1f9282e70c0cfcebf78cdf66bf8136ecfc32525ea88d41718f266fc800a296"
        ),
    }
