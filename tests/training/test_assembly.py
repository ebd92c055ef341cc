"""Two runs become one bundle: weights, settings, and what does not fit together."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from busi_monai.errors import InputError, WeightsError
from busi_monai.files import read_json, write_json
from busi_monai.networks.weights import read_weights
from busi_monai.training import assemble_stages


@pytest.fixture
def stages(two_stage_run: Path, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Copies of both stages' runs; changes go to ``settings.json`` by stage."""

    def copy(**changes: dict) -> tuple[Path, Path]:
        runs = []
        for stage in ("segmentation", "classification"):
            run = tmp_path / stage
            shutil.copytree(two_stage_run / "stages" / stage, run)
            settings = read_json(run / "settings.json")
            write_json(run / "settings.json", {**settings, **changes.get(stage, {})})
            runs.append(run)
        return runs[0], runs[1]

    return copy


def test_the_weights_are_those_of_the_stages(two_stage_run: Path) -> None:
    joined = read_weights(two_stage_run / "models" / "model.pt")
    for part, stage in (("segmenter", "segmentation"), ("classifier", "classification")):
        own = read_weights(two_stage_run / "stages" / stage / "models" / "model.pt")
        for name, value in own.items():
            assert torch.equal(joined.pop(f"{part}.{name}"), value)
    assert joined == {}


def test_the_network_is_told_what_the_stages_were_trained_with(two_stage_run: Path) -> None:
    for name in ("evaluate", "inference"):
        config = yaml.safe_load((two_stage_run / "configs" / f"{name}.yaml").read_text())
        network = config["network_def"]
        assert network["segmenter_size"] == [32, 32] and network["crop_size"] == [24, 40]
        assert network["margin"] == 0.4 and network["when_no_lesion"] == "normal"
    settings = read_json(two_stage_run / "settings.json")
    assert settings["image_size"] == [64, 96] and settings["lesion_crop"] is None


def test_both_stages_images_are_known(two_stage_run: Path) -> None:
    known = set(read_json(two_stage_run / "training_images.json")["sha256"])
    stage = read_json(two_stage_run / "stages" / "segmentation" / "training_images.json")
    assert known == set(stage["sha256"]) and len(known) > 10


def test_images_that_one_stage_does_not_tell_are_not_called_known(stages, tmp_path: Path) -> None:
    """A stage that started from a run which does not tell its images."""
    runs = stages()
    seen = read_json(runs[0] / "training_images.json")["sha256"]
    write_json(runs[0] / "training_images.json", {"sha256": [*seen, "x"], "complete": False})
    assemble_stages(*runs, tmp_path / "joined")
    known = read_json(tmp_path / "joined" / "training_images.json")
    assert known == {"sha256": sorted([*seen, "x"]), "complete": False}


def test_stages_of_different_masks_are_not_put_together(stages, tmp_path: Path) -> None:
    runs = stages()
    labels = read_json(runs[1] / "label_hashes.json")
    labels[3]["label_sha256"] = "0" * 64
    write_json(runs[1] / "label_hashes.json", labels)
    told = f"trained with different masks of 1 case: {re.escape(labels[3]['id'])}; train both"
    with pytest.raises(InputError, match=told):
        assemble_stages(*runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_z_scores_move_into_the_network(stages, tmp_path: Path) -> None:
    runs = stages(classification={"normalisation": "zscore", "temperature": 1.7})
    assemble_stages(*runs, tmp_path / "joined")
    network = yaml.safe_load((tmp_path / "joined" / "configs" / "inference.yaml").read_text())
    assert network["network_def"]["classifier_normalisation"] == "zscore"
    assert network["network_def"]["segmenter_normalisation"] == "unit"
    settings = read_json(tmp_path / "joined" / "settings.json")
    assert settings["normalisation"] == "unit" and settings["temperature"] == 1.7


@pytest.mark.parametrize(("pipeline", "expected"), [({"mask_threshold": 0.8}, 0.8), ({}, 0.3)])
def test_box_and_mask_have_one_threshold(
    stages, pipeline: dict, expected: float, tmp_path: Path
) -> None:
    runs = stages(segmentation={"mask_threshold": 0.3})
    assemble_stages(*runs, tmp_path / "joined", pipeline=pipeline)
    assert read_json(tmp_path / "joined" / "settings.json")["mask_threshold"] == expected
    for name in ("evaluate", "inference"):
        config = yaml.safe_load((tmp_path / "joined" / "configs" / f"{name}.yaml").read_text())
        assert config["network_def"]["mask_threshold"] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classification": {"lesion_crop": None}}, "was trained on whole images"),
        ({"segmentation": {"clahe": True}}, "clahe is True in .* and False in"),
        ({"classification": {"median_filter": 3}}, "median_filter is 0 in .* and 3 in"),
        ({"segmentation": {"aspect": "pad"}}, "aspect pad"),
        ({"classification": {"classes": []}}, "has no class head"),
        ({"classification": {"image_size": [25, 40]}}, "crop_size must be .* divisible by 2"),
        ({"classification": {"classes": ["benign", "malignant"]}}, "do not fit together"),
    ],
)
def test_what_does_not_fit_is_named(stages, changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        assemble_stages(*stages(**changes), tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_classifier_in_the_first_place_is_named(stages, tmp_path: Path) -> None:
    _, classification = stages()
    with pytest.raises(InputError, match="has no mask head to find lesions with"):
        assemble_stages(classification, classification, tmp_path / "joined")


def test_weights_that_are_missing_are_named(stages, tmp_path: Path) -> None:
    masks, classes = stages()
    (classes / "models" / "model.pt").unlink()
    with pytest.raises(WeightsError, match="does not exist"):
        assemble_stages(masks, classes, tmp_path / "joined")
    assert not (tmp_path / "joined" / "run.json").exists()
