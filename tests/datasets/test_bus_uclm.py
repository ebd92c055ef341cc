from __future__ import annotations

from pathlib import Path

from busi_monai.datasets import lesion_mask, read_dataset
from busi_monai.phantoms import write_phantom_dataset


def make(root: Path, table: str, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    head = "\ufeffImage;Resolution;Label;Doppler;Marks;Combined\n"
    (root / "INFO.csv").write_text(head + table, encoding="utf-8")
    return root


def test_the_prefix_is_the_patient(tmp_path: Path) -> None:
    make(
        tmp_path,
        "ALWI_000.png;856x606;Benign;No;Yes;No\nALWI_001.png;856x606;Normal;No;No;No\n",
        *("images/ALWI_000.png", "images/ALWI_001.png", "masks/ALWI_000.png"),
    )

    listing = read_dataset(tmp_path)

    assert listing.dataset == "bus_uclm"
    assert [(case.id, case.class_name, case.group) for case in listing.cases] == [
        ("ALWI_001", "normal", "bus_uclm:ALWI"),
        ("ALWI_000", "benign", "bus_uclm:ALWI"),
    ]
    assert listing.cases[1].meta == {
        "patient": "ALWI",
        "doppler": "No",
        "marks": "Yes",
        "combined": "No",
    }
    assert listing.problems == []


def test_table_and_files_that_disagree(tmp_path: Path) -> None:
    make(
        tmp_path,
        "A_0.png;;Benign;;;\nB_0.png;;Cyst;;;\nC_0.png;;Benign;;;\n",
        *("images/A_0.png", "images/B_0.png", "images/D_0.png", "masks/Z_0.png"),
    )

    assert {(p.kind, p.id) for p in read_dataset(tmp_path).problems} == {
        ("mask_without_image", "Z_0"),
        ("unknown_class", "B_0"),
        ("unknown_class", "D_0"),
        ("missing_mask", "A_0"),
        ("missing_image", "C_0"),
    }


def test_green_and_red_masks_are_lesions(tmp_path: Path) -> None:
    made = write_phantom_dataset(tmp_path / "x", cases=3, seed=1, size=(64, 80), layout="bus_uclm")

    areas = {case.class_name: lesion_mask(case).sum() for case in read_dataset(made).cases}

    assert areas["normal"] == 0
    assert areas["benign"] > 20
    assert areas["malignant"] > 20
