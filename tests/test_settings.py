from __future__ import annotations

import json
from pathlib import Path

import pytest

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.settings import Consistency, InferenceSettings, load_settings

UNUSUAL = InferenceSettings(
    classes=("benign", "malignant"),
    image_size=(160, 224),
    aspect="pad",
    normalisation="zscore",
    median_filter=3,
    clahe=True,
    temperature=1.7,
    mask_threshold=0.45,
    class_thresholds={"malignant": 0.35},
    tta_flip=True,
    consistency=Consistency(enabled=True, min_lesion_fraction=0.002, normal_empties_mask=False),
)


@pytest.mark.parametrize("settings", [InferenceSettings(), UNUSUAL], ids=["default", "unusual"])
def test_what_is_saved_is_loaded(tmp_path: Path, settings: InferenceSettings) -> None:
    settings.save(tmp_path)
    assert load_settings(tmp_path) == settings


def test_the_file_states_its_schema_and_every_field(tmp_path: Path) -> None:
    InferenceSettings().save(tmp_path)
    content = json.loads((tmp_path / "settings.json").read_text())
    assert content["schema_version"] == 1
    assert content["classes"] == list(CLASSES)
    assert content["image_size"] == [256, 256]
    assert content["consistency"]["enabled"] is False


def test_fields_left_out_have_their_defaults_and_classes_their_order(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"consistency": {"enabled": true}}')
    assert load_settings(tmp_path) == InferenceSettings(consistency=Consistency(enabled=True))
    assert InferenceSettings(classes=("malignant", "benign")).classes == ("benign", "malignant")
    assert InferenceSettings(classes=()).classes == ()


def test_a_changed_rule_is_on_unless_it_says_otherwise(tmp_path: Path) -> None:
    InferenceSettings(consistency=Consistency(min_lesion_fraction=0.5)).save(tmp_path)
    for change, rule in (
        (True, Consistency(enabled=True, min_lesion_fraction=0.5)),
        ({"normal_threshold": 0.4}, Consistency(True, 0.5, 0.4)),
        ({"enabled": False}, Consistency(min_lesion_fraction=0.5)),
    ):
        found = load_settings(tmp_path, consistency=change)
        assert found.consistency == rule


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (3, "consistency must be true, false, or a mapping"),
        ({"smallest": 1}, "consistency has no smallest; expected some of enabled"),
        ({"normal_threshold": 2}, r"normal_threshold must be a number in \[0, 1\], got 2"),
    ],
)
def test_a_wrong_change_of_the_rule_does_not_blame_the_file(
    tmp_path: Path, change: object, message: str
) -> None:
    InferenceSettings().save(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_settings(tmp_path, consistency=change)  # type: ignore[arg-type]
    assert "settings.json" not in str(caught.value)


WRONG = {
    "image_size": [[256], [256, 256, 3], [0, 256], ["a", "b"], 256, "abc"],
    "aspect": ["crop"],
    "normalisation": ["minmax"],
    "median_filter": [2, -3],
    "temperature": [0, -1, float("nan")],
    "mask_threshold": [-0.1, 1.5],
    "class_thresholds": [{"malignant": 2}, {"cyst": 0.5}],
    "classes": [["benign"], ["benign", "cyst"]],
    "consistency": [
        {"min_lesion_fraction": 2},
        {"min_lesion_fraction": None},
        {"normal_threshold": -1},
        {"normal_threshold": True},
        {"normal_threshold": "4e-1"},
        {"smallest": 1},
        3,
        {"enabled": "nope"},
    ],
    "lesion_crop": [True, "whole"],
    "tta_flip": ["nope", 1],
    "clahe": ["no"],
    "colour": ["red"],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_wrong_value_is_told_with_its_file(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({name: value}))
    with pytest.raises(InputError, match=r"settings\.json: "):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "{", '{"schema_version": 2}', '{"schema_version": "x"}']
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"settings\.json does not exist"):
        load_settings(tmp_path)
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError, match=r"settings\.json"):
        load_settings(tmp_path)
