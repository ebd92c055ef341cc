from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from busi_monai.curation import (
    PrepareOptions,
    find_shared_images,
    load_datalist,
    prepare_dataset,
)
from busi_monai.curation.datalist import Datalist
from busi_monai.errors import InputError
from busi_monai.io.images import pixel_sha256, read_image, write_png
from busi_monai.phantoms import write_phantom_dataset


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two prepared sets of other phantoms, with the same ids, not to be changed."""
    base = tmp_path_factory.mktemp("two datasets")
    prepared = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("busi_monai.curation.prepare.write_audit", lambda audit, out: [])
        for seed in (0, 1):
            raw = write_phantom_dataset(base / f"{seed}", cases=12, seed=seed, size=(96, 128))
            prepare_dataset(raw, base / f"prepared {seed}", PrepareOptions(ratios="50/25/25"))
            prepared.append(base / f"prepared {seed}")
    return prepared[0], prepared[1]


@pytest.fixture
def copies(datasets: tuple[Path, Path], tmp_path: Path) -> list[Path]:
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in datasets]


def replace_image(folder: Path, part: str, pixels: np.ndarray) -> str:
    """Put an image in place of the first one of a part, consistently; return its id."""
    datalist = load_datalist(folder)
    item = getattr(datalist, part)[0]
    write_png(folder / item["image"], pixels)
    item["sha256"] = pixel_sha256(read_image(folder / item["image"]).pixels)
    values = {name: getattr(datalist, name) for name in datalist.__dataclass_fields__}
    Datalist(**values).save(folder / "datalist.json")
    return str(item["id"])


def cropped_training_image(folder: Path) -> np.ndarray:
    item = load_datalist(folder).training[0]
    return (read_image(folder / item["image"]).pixels[3:, :120] * 255).round().astype(np.uint8)


def test_two_collections_share_nothing(datasets: tuple[Path, Path]) -> None:
    found = find_shared_images(datasets)
    assert found.ok and found.images == 24 and found.same_side == 0


def test_a_training_image_that_the_other_evaluates_is_found(copies: list[Path]) -> None:
    first, second = copies
    name = replace_image(second, "test", cropped_training_image(first))
    found = find_shared_images(copies)
    (problem,) = found.problems
    source = load_datalist(first).training[0]["id"]
    assert problem.kind == "shared_image" and not found.ok
    told = f"{problem.id} {problem.message}"
    assert name in told and source in told and "train image" in told and "test image" in told
    assert json.loads(json.dumps(found.as_dict()))["problems"]


def test_one_that_both_train_on_is_no_leak(copies: list[Path]) -> None:
    first, second = copies
    replace_image(second, "training", cropped_training_image(first))
    found = find_shared_images(copies)
    assert found.ok and found.same_side == 1


def test_two_different_folders_are_needed(datasets: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="two prepared datasets or more"):
        find_shared_images(datasets[:1])
    for again in (datasets[0].parent / "." / datasets[0].name, datasets[0] / "datalist.json"):
        with pytest.raises(InputError, match=r"prepared 0 is given more than once"):
            find_shared_images([*datasets, again])


def test_images_that_cannot_be_read_are_told(copies: list[Path]) -> None:
    shutil.rmtree(copies[1] / "images")
    found = find_shared_images([folder / "datalist.json" for folder in copies])
    assert found.images == 12 and not found.ok
    assert {problem.kind for problem in found.problems} == {"missing_image"}


def folds(raw: Path, out: Path, **options: object) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("busi_monai.curation.prepare.write_audit", lambda audit, out: [])
        prepare_dataset(raw, out, PrepareOptions(folds=2, **options))  # type: ignore[arg-type]
    return out


def test_folds_are_sides_too(tmp_path: Path) -> None:
    raw = write_phantom_dataset(tmp_path / "raw", cases=12, seed=0, size=(96, 128))
    same = [folds(raw, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0))]
    found = find_shared_images(same)
    assert found.ok and found.same_side == 12
    other = folds(raw, tmp_path / "c", seed=1)
    found = find_shared_images([same[0], other])
    moved = {
        item["id"]
        for item, twin in zip(
            sorted(load_datalist(same[0]).training, key=lambda item: item["id"]),
            sorted(load_datalist(other).training, key=lambda item: item["id"]),
            strict=True,
        )
        if item["fold"] != twin["fold"]
    }
    assert moved and {problem.id for problem in found.problems} == moved


def test_an_image_of_several_masks_is_one_image(
    datasets: tuple[Path, Path], defective: Path, tmp_path: Path
) -> None:
    split = folds(defective, tmp_path / "split", multi_mask="split")
    cases = load_datalist(split).training
    distinct = len({item["image"] for item in cases})
    assert len(cases) > distinct
    assert find_shared_images([datasets[1], split]).images == 12 + distinct


def test_what_is_only_alike_does_not_count(
    datasets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busi_monai.curation.near_duplicates.CONFIRMING_CORRELATION", -1.0)
    monkeypatch.setattr("busi_monai.curation.verify.CERTAIN_CORRELATION", 0.999)
    assert find_shared_images(datasets).ok
