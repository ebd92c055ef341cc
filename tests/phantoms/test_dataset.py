from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from busi_monai.datasets import READERS, individual_masks, lesion_mask, read_dataset
from busi_monai.errors import ImageReadError, InputError
from busi_monai.io.images import read_image
from busi_monai.outputs import HIDDEN_RECORD
from busi_monai.phantoms import LAYOUT_WRITERS, planted_defects
from busi_monai.phantoms import write_phantom_dataset as write

SIZE = (48, 64)
DEFECT_SIZE = (120, 150)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("layout", READERS)
def test_every_layout_reads_back(tmp_path: Path, layout: str) -> None:
    made = write(tmp_path / "made", cases=7, seed=2, size=SIZE, layout=layout)
    listing = read_dataset(made)
    assert listing.dataset == layout
    assert listing.problems == []
    assert len(listing.cases) == 7
    counts = [listing.class_counts[name] for name in LAYOUT_WRITERS[layout].classes]
    assert max(counts) - min(counts) <= 1
    for case in listing.cases:
        mask = lesion_mask(case)
        loaded = read_image(case.image)
        assert loaded.pixels.shape == mask.shape == SIZE
        assert not loaded.has_colour
        assert mask.any() == case.has_lesion


@pytest.mark.parametrize("layout", READERS)
def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, layout: str) -> None:
    options = {"cases": 4, "size": SIZE, "layout": layout, "defects": layout != "busi"}
    first = write(tmp_path / "a" / "x", seed=3, **options)
    second = write(tmp_path / "b" / "x", seed=3, **options)
    other = write(tmp_path / "c" / "x", seed=4, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(first) == contents(second) != contents(other)


def test_more_cases_and_defects_leave_the_first_ones_as_they_were(tmp_path: Path) -> None:
    few = contents(write(tmp_path / "few", cases=4, seed=0, size=SIZE))
    many = contents(write(tmp_path / "many", cases=9, seed=0, size=SIZE, defects=True))
    few.pop(HIDDEN_RECORD)
    assert few.items() <= many.items()


@pytest.fixture(scope="module")
def defective(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("defective") / "busi"
    return write(out, cases=6, seed=1, size=DEFECT_SIZE, defects=True)


def test_the_record_is_hidden_from_readers(defective: Path) -> None:
    planted = planted_defects(defective)
    assert sorted(path.name for path in defective.rglob("*.json")) == [
        HIDDEN_RECORD, ".defects.json"
    ]  # fmt: skip
    assert set(planted) == {
        "near_duplicates", "class_conflicts", "multi_mask", "text", "calipers", "colour",
        "truncated", "size_mismatch", "stray_files",
    }  # fmt: skip
    assert all(planted.values())


def test_every_planted_id_is_a_case(defective: Path) -> None:
    planted = planted_defects(defective)
    ids = {case.id for case in read_dataset(defective).cases}
    strays = planted.pop("stray_files")
    named = [item for items in planted.values() for item in items]
    flat = {i for item in named for i in (item if isinstance(item, list) else [item])}
    assert flat <= ids
    assert [p.file for p in read_dataset(defective).problems] == strays


def test_near_duplicates_are_one_image_but_other_pixels(defective: Path) -> None:
    listing = read_dataset(defective)
    for first, second in planted_defects(defective)["near_duplicates"]:
        a, b = (read_image(listing.case(i).image).pixels for i in (first, second))
        assert a.shape != b.shape or not np.array_equal(a, b)
        thumbnails = [_thumbnail(pixels) for pixels in (a, b)]
        assert np.corrcoef(thumbnails[0].ravel(), thumbnails[1].ravel())[0, 1] > 0.8
        assert lesion_mask(listing.case(second)).shape == b.shape


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Means over a grid of 12×12 parts of the upper 85 %, which the text does not reach."""
    upper = pixels[: int(0.85 * len(pixels))]
    rows = np.array_split(upper, 12, axis=0)
    return np.array([[part.mean() for part in np.array_split(row, 12, axis=1)] for row in rows])


def test_masks_in_parts(defective: Path) -> None:
    listing = read_dataset(defective)
    planted = planted_defects(defective)["multi_mask"]
    assert planted == [case.id for case in listing.cases if len(case.masks) > 1]
    for case_id in planted:
        left, right = individual_masks(listing.case(case_id))
        assert left.any() and right.any() and not (left & right).any()


def test_broken_files_cannot_be_read(defective: Path) -> None:
    listing = read_dataset(defective)
    planted = planted_defects(defective)
    with pytest.raises(ImageReadError, match="truncated"):
        read_image(listing.case(planted["truncated"][0]).image)
    with pytest.raises(ImageReadError, match="expected the size"):
        lesion_mask(listing.case(planted["size_mismatch"][0]))


def test_colour_is_where_it_was_planted_and_nowhere_else(defective: Path) -> None:
    listing = read_dataset(defective)
    planted = planted_defects(defective)
    readable = [case for case in listing.cases if case.id not in planted["truncated"]]
    coloured = [case.id for case in readable if read_image(case.image).has_colour]
    assert coloured == planted["colour"]


def test_replacing_a_dataset_takes_its_record_along(tmp_path: Path) -> None:
    write(tmp_path / "x", cases=1, seed=0, size=SIZE, defects=True)
    made = write(tmp_path / "x", cases=1, seed=0, size=SIZE, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert len(read_dataset(made).cases) == 1


def test_an_existing_dataset_is_not_touched(tmp_path: Path) -> None:
    made = write(tmp_path / "x", cases=1, seed=0, size=SIZE)
    before = contents(made)
    with pytest.raises(InputError, match="--overwrite"):
        write(tmp_path / "x", cases=2, seed=5, size=SIZE)
    assert contents(made) == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("busi_monai.phantoms.layouts.write_mask", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "x", cases=2, seed=0, size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 0}, "at least one case, got 0"),
        ({"seed": -1}, "seed of 0 or more, got -1"),
        ({"layout": "dicom"}, "unknown layout 'dicom'; expected busi"),
        ({"size": (10, 64)}, "at least 32 px, got 10x64"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path / "x", **{"cases": 1, "seed": 0, **options})
    assert list(tmp_path.iterdir()) == []
