from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from busi_monai.bundle.shipped import find_bundle
from busi_monai.curation import load_datalist
from busi_monai.errors import InputError
from busi_monai.files import file_sha256, read_json
from busi_monai.label_app.retraining import (
    RetrainingOptions,
    check_trainable,
    divide,
    network_settings,
    retrain,
)
from busi_monai.label_app.served import ServedModel
from busi_monai.settings import load_settings
from busi_monai.training import read_training_images

IDS = [f"{name} ({n})" for name in ("normal", "benign", "malignant") for n in range(1, 5)]


def cases(ids: str, groups: str | None = None, classes: str | None = None) -> list[dict[str, str]]:
    """Items of one letter each: id and hash, group, class."""
    rows = zip(ids, groups or ids, classes or "b" * len(ids), strict=True)
    return [{"id": i, "sha256": i, "group": g, "class_label": c} for i, g, c in rows]


def test_groups_stay_whole() -> None:
    for seed in range(10):
        parts = divide(cases("abcdef", groups="gghhii"), 0.3, seed)
        assert sorted(parts["validation"]) in (["a", "b"], ["c", "d"], ["e", "f"])
        assert len(parts["train"]) == 4


def test_every_class_that_has_enough_is_validated_on() -> None:
    items = cases("abcdefg", classes="nnbbbbm")
    held = divide(items, 0.25)["validation"]
    assert len(held) == 2 and held[0] in "ab" and held[1] in "cdef"


def test_what_was_trained_on_is_never_validated_on() -> None:
    items = cases("abcd", groups="gghi")
    for seed in range(10):
        parts = divide(items, 0.5, seed, seen=frozenset("ac"), validated=frozenset("ab"))
        assert parts == {"train": ["a", "b", "c"], "validation": ["d"]}
    assert divide(items, 0.5, seen=frozenset("acd"))["validation"] == []


def test_what_was_validated_on_stays_there() -> None:
    for seed in range(10):
        parts = divide(cases("abcd"), 0.25, seed, validated=frozenset("a"))
        assert parts == {"train": ["b", "c", "d"], "validation": ["a"]}


def test_more_is_validated_on_as_more_is_submitted() -> None:
    held = divide(cases("abcdefgh"), 0.25, validated=frozenset("a"))["validation"]
    assert "a" in held and len(held) == 2


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"max_epochs": "many"}, "max_epochs: expected a value like 20, got 'many'"),
        ({"max_epochs": 0}, "at least 1"),
        ({"val_split": 0.9}, r"val_split must lie in \(0, 0.5\]"),
        ({"learning_rate": -1}, "above 0"),
    ],
)
def test_wrong_options_are_named(request_: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        RetrainingOptions.from_request(request_)


def test_the_shipped_networks_settings_are_those_of_its_weights() -> None:
    bundle = find_bundle()
    settings = network_settings(bundle)
    assert settings["decoder_options"] == {"upsample": "nearest", "convolutions": 1}
    assert "classes" not in settings and "_target_" not in settings


def test_what_cannot_be_trained_in_one_go_is_refused() -> None:
    with pytest.raises(InputError, match="is a TwoStageNetwork"):
        check_trainable(find_bundle("breast_ultrasound_two_stage"))
    check_trainable(find_bundle())


def test_two_rounds(tiny_run: Path, studies: Path, submit, tmp_path: Path) -> None:
    served = Path(shutil.copytree(tiny_run, tmp_path / "served"))
    point = load_settings(served)
    replace(point, temperature=1.7, class_thresholds={"malignant": 0.2}).save(served)
    model = ServedModel(tmp_path / "model", served, "cpu")
    options = RetrainingOptions(max_epochs=1, batch_size=4, device="cpu", val_split=0.3)
    seen = read_training_images(served)
    for name in IDS[:8]:
        submit(studies, name)
    submit(studies, "malignant (1)", **{"class": None})

    first = retrain(model, studies, tmp_path / "rounds", options)

    assert model.run == first.run and first.before == served
    assert first.left_out[0]["id"] == "malignant (1)" and "class" in first.left_out[0]["reason"]
    datalist = load_datalist(first.run.parent / "prepared")
    assert first.training + first.validation == 8
    assert not {item["sha256"] for item in datalist.validation} & seen
    assert datalist.leaks["count"] == 0
    after = load_settings(first.run)
    assert (after.temperature, after.class_thresholds) == (1.7, {"malignant": 0.2})
    assert read_json(first.run / "initial_run.json")["run"] == str(served)
    # a moving average over so few steps would be where it started
    weights = [file_sha256(run / "models" / "model.pt") for run in (served, first.run)]
    assert weights[0] != weights[1]
    assert model.predictor().predict(studies / "benign (1).png").mask.shape == (96, 128)

    for name in IDS[8:]:
        submit(studies, name)
    second = retrain(model, studies, tmp_path / "rounds", options)

    assert model.run == second.run and second.before == first.run
    again = load_datalist(second.run.parent / "prepared")
    assert {item["sha256"] for item in datalist.validation} <= {
        item["sha256"] for item in again.validation
    }
    assert not {item["sha256"] for item in again.validation} & read_training_images(first.run)
    assert second.training + second.validation == 12


def test_nothing_else_is_served_after_a_round_that_fails(
    tiny_run: Path, studies: Path, submit, tmp_path: Path
) -> None:
    model = ServedModel(tmp_path / "model", tiny_run, "cpu")
    with pytest.raises(InputError, match="labels/final"):
        retrain(model, studies, tmp_path / "rounds")
    submit(studies, "benign (1)", **{"class": None})
    with pytest.raises(InputError, match="no usable label"):
        retrain(model, studies, tmp_path / "rounds")
    submit(studies, "benign (1)")
    with pytest.raises(InputError, match="none is left for"):
        retrain(model, studies, tmp_path / "rounds")
    assert model.run == tiny_run
