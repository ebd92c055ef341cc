from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.errors import InputError
from busi_monai.experiments.tuning_space import Choices, Range, parse_space, read_space


def test_kinds_of_entries():
    space = parse_space(
        {
            "learning_rate": {"low": "1e-4", "high": 1e-2, "log": True},
            "dropout": {"low": 0, "high": 1, "type": "float"},
            "batch_size": {"low": 4, "high": 16, "step": 4},
            "encoder_options::widths": {"choices": [[4, 8], [8, 16], None]},
        }
    )
    assert space.parameters == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "dropout": Range(0.0, 1.0),
        "batch_size": Range(4, 16, integer=True, step=4),
        "encoder_options#widths": Choices({"[4, 8]": [4, 8], "[8, 16]": [8, 16], "null": None}),
    }
    assert parse_space(space.as_dict()) == space


def test_choices_keep_their_types():
    space = parse_space({"classes_": {"choices": [1, "1", True, [1]]}})
    names = list(space.parameters["classes_"].values)
    decoded = [space.decode({"classes_": name})["classes_"] for name in names]
    assert [type(value) for value in decoded] == [int, str, bool, list]


def test_steps_leave_no_rounding_behind():
    space = parse_space({"dropout": {"low": 0.0, "high": 0.5, "step": 0.1}})
    assert space.decode({"dropout": 0.1 + 0.2}) == {"dropout": 0.3}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([0.1, 0.2], "expected {low, high}"),
        ({"low": 1}, "expected {low, high}"),
        ({"low": 1, "high": 2, "hi": 3}, "expected {low, high}"),
        ({"low": 2, "high": 1}, "low must be below high"),
        ({"low": 0, "high": 1, "log": True}, "above 0 on a logarithmic scale"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "exclude each other"),
        ({"low": 1, "high": 2, "log": "yes"}, "log must be true or false"),
        ({"low": 1, "high": 2, "step": 3}, "step must be between 0 and 1"),
        ({"low": 0.5, "high": 2, "type": "int"}, "not a whole number"),
        ({"low": 1, "high": 2, "type": "long"}, "type must be int or float"),
        ({"low": "one", "high": 2}, "expected a number, found 'one'"),
        ({"low": 1, "high": float("inf")}, "expected a finite number"),
        ({"choices": [1]}, "two choices or more"),
        ({"choices": [1, 2, 1]}, "listed twice"),
    ],
)
def test_wrong_entries_say_what_is_wrong(entry, message):
    with pytest.raises(InputError) as caught:
        parse_space({"learning_rate": entry}, "space.yaml")
    assert message in str(caught.value) and "space.yaml: learning_rate" in str(caught.value)


@pytest.mark.parametrize("key", ["fold", "output_dir", "classes", "select_by"])
def test_what_would_spoil_the_comparison_is_refused(key):
    with pytest.raises(InputError, match=f"{key} can't be searched"):
        parse_space({key: {"choices": [1, 2]}})


@pytest.mark.parametrize("content", ["", "- 1\n", "a: [", "\x00"])
def test_a_file_that_is_no_space(tmp_path: Path, content: str):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(InputError, match=r"space\.yaml"):
        read_space(tmp_path / "space.yaml")
    with pytest.raises(InputError, match="does not exist"):
        read_space(tmp_path / "nowhere.yaml")


def test_clashes_with_fixed_values_are_found_by_whole_keys():
    space = parse_space({"optimizer_options#momentum": {"low": 0.1, "high": 0.9}})
    assert space.clashes(["optimizer", "optimizer_options#nesterov"]) == []
    keys = ["optimizer_options", "optimizer_options#momentum"]
    assert space.clashes(keys) == keys
