from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from busi_monai.cases import CLASSES
from busi_monai.evaluation import read_predictions
from busi_monai.files import read_json, write_json
from busi_monai.io.images import write_png

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "results"


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    return importlib.import_module("failure_analysis")


@pytest.fixture
def measure(script: ModuleType) -> ModuleType:
    return importlib.import_module("lesion_features")


def predictions(dice: list[float], truth: str = "benign", groups: str = "") -> pd.DataFrame:
    """A row for each Dice, and one normal without a mask that is called malignant for sure."""
    count = len(dice)
    frame = pd.DataFrame({
        "id": [f"lesion {index}" for index in range(count)] + ["normal"],
        "group": [*(groups or "abcdefghij"[:count]), "n"],
        "true_class": [truth] * count + [CLASSES[0]],
        "predicted_class": ["benign"] * (count + 1),
        "p_normal": [0.1] * count + [0.05],
        "p_benign": [0.7] * count + [0.1],
        "p_malignant": [0.2] * count + [0.85],
        "dice": [*dice, 1.0],
        "lesion_pixels": [10.0] * count + [0.0],
        "true_lesion_fraction": [0.1 * (index + 1) for index in range(count)] + [0.0],
    })  # fmt: skip
    return frame


def features(table: pd.DataFrame, **columns: list[float]) -> pd.DataFrame:
    flags = dict.fromkeys(("several_masks", "text", "markers", "other_outline"), 0)
    contrast = np.linspace(-0.5, 0.1, len(table))
    return pd.DataFrame(
        {"id": table["id"], "depth": contrast, "contrast": contrast} | flags | columns
    )


def seen(**tags: str) -> pd.DataFrame:
    rows = [(name.replace("_", " "), tag, "") for name, tag in tags.items()]
    return pd.DataFrame(rows, columns=["id", "tag", "drawn"])


def cells(markdown: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_depth_and_contrast_are_those_of_the_lesion_against_its_ring(
    measure: ModuleType, tmp_path: Path
) -> None:
    pixels, mask = np.full((40, 40), 153, np.uint8), np.zeros((40, 40), np.uint8)
    pixels[20:30, 10:20], mask[20:30, 10:20] = 51, 255
    pixels[:5] = 255  # far from the lesion
    items = [
        {"id": name, "image": f"{name}.png", "label": f"{name} mask.png"}
        for name in ("dark", "none")
    ]
    for item, label in zip(items, (mask, np.zeros_like(mask)), strict=True):
        write_png(tmp_path / item["image"], pixels)
        write_png(tmp_path / item["label"], label)
    write_json(tmp_path / "datalist.json", {"training": items, "validation": [], "test": []})
    audit = {
        "multi_mask": ["dark"],
        "artefacts": {"text": ["none"]},
        "disagreeing_masks": [{"a": "elsewhere", "b": "dark", "iou": 0.1}],
    }
    write_json(tmp_path / "audit.json", audit)
    dark, none = measure.measured_features(tmp_path).to_dict("records")
    assert dark["depth"] == 0.625
    assert dark["contrast"] == pytest.approx(-0.4)
    assert (dark["several_masks"], dark["text"], dark["other_outline"]) == (1, 0, 1)
    assert np.isnan(none["depth"])
    assert np.isnan(none["contrast"])
    assert (none["text"], none["other_outline"]) == (1, 0)


def test_a_prepared_folder_is_measured(measure: ModuleType, phantom_prepared: Path) -> None:
    found = measure.measured_features(phantom_prepared)
    content = read_json(phantom_prepared / "datalist.json")
    normal = [item["class_label"] == 0 for part in ("training", "validation", "test")
              for item in content[part]]  # fmt: skip
    assert found["contrast"].isna().tolist() == normal
    assert found["contrast"].min() < 0


def test_failures_are_counted_by_image_and_by_group(script: ModuleType) -> None:
    table = predictions([0.0, 0.05, 0.3, 0.9], groups="aabc")
    rows = script.analysed(table, features(table), seen())
    overview = cells(script.failure_tables(rows)["overview"])
    assert overview["lesions not touched"][0] == "1 of 4"
    missed = overview["lesions with a Dice below 0.1"]
    assert missed[0] == "2 of 4"
    assert missed[2:4] == ["1 of 3", "1"]
    assert missed[4].startswith("0.333")
    assert overview["0.8 or more for a wrong class"][0] == "1 of 5"
    assert overview["normals with a mask"][0] == "0 of 1"


def test_a_share_of_none_has_the_interval_of_its_groups(script: ModuleType) -> None:
    table = predictions([0.9] * 10)
    rows = script.analysed(table, features(table), seen())
    share = cells(script.failure_tables(rows)["features"])["all lesions"][2]
    assert share == "0.000 (0.000–0.278)"  # Wilson, 0 of 10


def test_lesions_are_told_apart_by_features_and_tags(script: ModuleType) -> None:
    table = predictions([0.0, 0.9, 0.0], truth="malignant")
    known = features(table, text=[1, 0, 0, 0])
    tags = seen(lesion_0="axilla", lesion_1="plain")
    tags.loc[1, "drawn"] = "random"
    tables = script.failure_tables(script.analysed(table, known, tags))
    lines = cells(tables["features"])
    assert lines["burned-in text: yes"][:2] == ["1, 1", "1"]
    assert lines["burned-in text: no"][:2] == ["2, 2", "1"]
    assert lines["axilla is written in the image: yes"][1] == "1"
    assert "benign" not in lines
    header, first = tables["tags"].splitlines()[0], next(
        line for line in tables["tags"].splitlines() if "`axilla`" in line
    )  # fmt: skip
    assert "Dice below 0.1, 1 looked at | drawn from the others, 1 looked at" in header
    assert "| 1: 1.000" in first
    assert "| 0: 0.000" in first


def test_another_table_mends_some_and_makes_some_anew(script: ModuleType) -> None:
    before, after = predictions([0.0, 0.05, 0.9, 0.08]), predictions([0.2, 0.7, 0.0, 0.0])
    known, tags = features(before), seen(lesion_1="axilla")
    after = after.iloc[::-1]  # in any order
    first, second = (script.analysed(table, known, tags) for table in (before, after))
    lines = cells(script.mended_table(first, second))
    assert lines["all lesions"][:5] == ["4", "3", "2", "1", "1"]
    assert lines["all lesions"][5].startswith("-0.250")
    assert lines["seen: `axilla`"][:5] == ["1", "1", "1", "1", "0"]
    assert lines["not looked at"][:5] == ["3", "2", "1", "0", "1"]


def test_tables_of_other_images_are_refused(script: ModuleType) -> None:
    one, other = predictions([0.0, 0.5]), predictions([0.0])
    rows = [script.analysed(table, features(table), seen()) for table in (one, other)]
    with pytest.raises(ValueError, match=r"1 images are in one table only, such as .'lesion 1'"):
        script.mended_table(*rows)


def test_images_without_features_and_unknown_tags_are_refused(script: ModuleType) -> None:
    table = predictions([0.0, 0.5])
    with pytest.raises(ValueError, match=r"1 images of the table have no features.*--prepared"):
        script.analysed(table, features(table).iloc[:-1], seen())
    with pytest.raises(ValueError, match=r"unknown tags .'axila'.; expected axilla, "):
        script.analysed(table, features(table), seen(lesion_0="axila"))


def test_the_command_prints_the_tables(
    script: ModuleType, phantom_prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_json(phantom_prepared / "datalist.json")
    ids = [item["id"] for part in ("training", "validation", "test") for item in content[part]
           if item["class_label"]]  # fmt: skip
    table = predictions([0.0] * 10).iloc[:10].assign(id=ids[:10])
    for name, values in {"one": 0.0, "other": 0.9}.items():
        table.assign(dice=values).to_csv(tmp_path / f"{name}.csv", index=False)
    paths = [str(tmp_path / "one.csv"), str(tmp_path / "other.csv")]
    assert script.main([*paths, "--prepared", str(phantom_prepared)]) == 0
    printed = capsys.readouterr().out
    assert "| all lesions | 10 | 10 | 10 | 10 | 0 | -1.000" in printed
    assert "not looked at yet\n\nnone" in printed


def test_all_that_the_page_counts_was_looked_at(script: ModuleType) -> None:
    kept = pd.read_csv(RESULTS / script.BY_EYE, keep_default_na=False)
    assert not kept.duplicated(["id", "tag"]).any()
    assert (kept.loc[kept["tag"] == "other", "note"] != "").all()
    rows = script.analysed(
        read_predictions(RESULTS / script.FIRST), pd.read_csv(RESULTS / script.FEATURES), kept
    )
    assert set(kept["id"]) <= set(rows["id"])
    looked_at = rows["tags"].map(len) > 0
    assert looked_at[rows["missed"] | rows["sure"] | rows["random"]].all()
    assert rows["random"].sum() == 60
