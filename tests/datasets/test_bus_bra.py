from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.datasets import read_dataset
from busi_monai.errors import InputError
from busi_monai.phantoms import write_phantom_dataset

HEAD = "ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX\n"
ROW = '{id},{patient},fibroadenoma,{pathology},4,Logiq,64,48,left,"[1,2,3,4]"\n'


def make(root: Path, rows: list[tuple[str, int, str]], files: tuple[str, ...]) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    text = HEAD + "".join(ROW.format(id=i, patient=p, pathology=c) for i, p, c in rows)
    (root / "bus_data.csv").write_text(text, encoding="utf-8")
    return root


def test_patients_become_groups(tmp_path: Path) -> None:
    make(
        tmp_path,
        [("bus_0001-l", 1, "benign"), ("bus_0001-r", 1, "malignant"), ("bus_0002-s", 2, "benign")],
        (
            *("Images/bus_0001-l.png", "Images/bus_0001-r.png", "Images/bus_0002-s.png"),
            *("Masks/mask_0001-l.png", "Masks/mask_0001-r.png", "Masks/mask_0002-s.png"),
        ),
    )

    listing = read_dataset(tmp_path)

    assert [(case.id, case.group) for case in listing.cases] == [
        ("bus_0001-l", "bus_bra:1"),
        ("bus_0002-s", "bus_bra:2"),
        ("bus_0001-r", "bus_bra:1"),
    ]
    assert listing.cases[0].masks[0].name == "mask_0001-l.png"
    assert listing.cases[0].meta == {
        "patient": "1",
        "histology": "fibroadenoma",
        "birads": 4,
        "device": "Logiq",
        "side": "left",
    }
    assert listing.problems == []


def test_table_and_files_that_disagree(tmp_path: Path) -> None:
    make(
        tmp_path,
        [("bus_1-l", 1, "benign"), ("bus_2-l", 2, "benign"), ("bus_3-l", 3, "normalish")],
        ("Images/bus_1-l.png", "Images/bus_3-l.png", "Images/bus_4-l.png", "Masks/mask_9-l.png"),
    )

    listing = read_dataset(tmp_path)

    assert {(p.kind, p.id) for p in listing.problems} == {
        ("mask_without_image", "bus_9-l"),
        ("unknown_class", "bus_3-l"),
        ("unknown_class", "bus_4-l"),
        ("missing_mask", "bus_1-l"),
        ("missing_image", "bus_2-l"),
    }


def test_the_authors_folds_are_told(tmp_path: Path) -> None:
    ids = ("bus_1-l", "bus_2-l", "bus_3-l")
    make(
        tmp_path,
        [(name, number, "benign") for number, name in enumerate(ids)],
        tuple(f"Images/{name}.png" for name in ids),
    )
    table = "ID,Pathology,kFold,valid_1\nbus_1-l,benign,4,1\nbus_2-l,benign,,NaN\n"
    (tmp_path / "5-fold-cv.csv").write_text(table, encoding="utf-8")

    folds = [case.meta.get("official_fold") for case in read_dataset(tmp_path).cases]

    assert folds == [4, None, None]


def test_a_table_without_pathology_is_refused(tmp_path: Path) -> None:
    make(tmp_path, [], ("Images/bus_1-l.png",))
    (tmp_path / "bus_data.csv").write_text("ID,Case\nbus_1-l,1\n", encoding="utf-8")

    with pytest.raises(InputError, match="missing Pathology"):
        read_dataset(tmp_path)


def test_the_box_of_a_phantom_encloses_its_mask(tmp_path: Path) -> None:
    made = write_phantom_dataset(tmp_path / "x", cases=2, seed=0, size=(64, 80), layout="bus-bra")

    table = (made / "bus_data.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] + "\n" == HEAD
    assert table[1].startswith("bus_0001-l,1,") and '"[' in table[1]


@pytest.mark.realdata
def test_the_real_bus_bra(real_bus_bra: Path) -> None:
    listing = read_dataset(real_bus_bra)

    assert listing.dataset == "bus_bra"
    assert listing.class_counts["normal"] == 0
    assert listing.problems == []
    assert all(len(case.masks) == 1 and case.group for case in listing.cases)
    assert len({case.group for case in listing.cases}) < len(listing.cases)
