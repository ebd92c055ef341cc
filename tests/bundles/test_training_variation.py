"""Augmentation and mixing, as the bundle's configuration switches them on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.bundle import run as monai_bundle_run

from busi_monai.bundle.shipped import find_bundle
from busi_monai.errors import InputError
from busi_monai.training import MixedBatches, prepare_batch, train_bundle
from busi_monai.transforms import training_augmentation

TRAIN = find_bundle() / "configs" / "train.yaml"
MIXED = {"mixing_options": {"mixup": 0.4, "cutmix": 1.0, "probability": 0.8}}
VARIED = {
    "augmentation_options": {
        "crop_probability": 0.5,
        "blur_probability": 0.5,
        "shadow_probability": 0.5,
        "depth_gain_probability": 0.5,
    }
}

Train = Callable[..., Path]


@pytest.fixture
def train(phantom_prepared: Path, tiny_config: Path, tmp_path: Path) -> Train:
    def run(name: str = "run", *, resume: bool = False, **overrides: object) -> Path:
        return train_bundle(
            [phantom_prepared],
            tmp_path / name,
            configs=[] if resume else [tiny_config],
            overrides={"device_name": "cpu", **overrides},
            resume=resume,
        )

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "models" / "model.pt", weights_only=True)


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def prepare_batches(**changes: object) -> tuple[object, object]:
    """Return the prepare-batch of the trainer and of the evaluator."""
    parser = ConfigParser(ConfigParser.load_config_file(str(TRAIN)))
    parser.update(changes)
    evaluator = parser.get_parsed_content("validate#evaluator#prepare_batch")
    return parser.get_parsed_content("train#trainer#prepare_batch"), evaluator


def test_by_default_nothing_is_mixed() -> None:
    assert prepare_batches() == (prepare_batch, prepare_batch)


def test_only_training_batches_are_mixed() -> None:
    training, validation = prepare_batches(**MIXED, classes=["benign", "malignant"])
    assert isinstance(training, MixedBatches)
    assert training.kinds == {"mixup": 0.4, "cutmix": 1.0}
    assert (training.classes, training.probability) == (2, 0.8)
    assert validation is prepare_batch


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"weigh_classes": True, "label_smoothing": 0.1, "deep_supervision": True},
        {"classification_loss": "focal", "segmentation_loss": "dice_focal"},
        {"seg_weight": 0.0, "cls_weight": 1.0},
        {"seg_weight": 1.0, "cls_weight": 0.0},
    ],
)
def test_mixed_and_varied_images_train(more: dict[str, object], train: Train) -> None:
    history = pd.read_csv(train(**MIXED, **VARIED, **more, max_epochs=1) / "history.csv")
    heads = {"lesion_dice": more.get("seg_weight") != 0, "accuracy": more.get("cls_weight") != 0}
    assert history["train_loss"].notna().all()
    for name, trained in heads.items():
        assert history[f"train_{name}"].notna().all() == trained
        assert history[f"val_{name}"].notna().all() == trained


def test_a_resumed_mixed_run_ends_like_one_that_was_never_stopped(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("whole", **MIXED, **VARIED, max_epochs=3)
    batches = MixedBatches.__call__
    calls = 0

    def interrupted(self: MixedBatches, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 6:  # in the second epoch
            raise KeyboardInterrupt
        return batches(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MixedBatches, "__call__", interrupted)
        train("parts", **MIXED, **VARIED, max_epochs=3)
    parts = train("parts", resume=True)
    assert same_weights(whole, parts)
    courses = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (whole, parts)]
    pd.testing.assert_frame_equal(*courses)


def test_monais_command_mixes_as_ours_does(
    train: Train,
    tiny_run: Path,
    tiny_config: Path,
    phantom_prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = train("ours", **MIXED)
    monkeypatch.chdir(tmp_path)
    monai_bundle_run(
        run_id="training",
        config_file=[str(TRAIN), str(tiny_config)],
        dataset_dir=str(phantom_prepared),
        output_dir="theirs",
        device_name="cpu",
        **MIXED,
    )
    assert same_weights(ours, tmp_path / "theirs")
    assert not same_weights(ours, tiny_run)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("mixing_options", {"mixpu": 0.2}),
        ("mixing_options", {"probability": 2}),
        ("augmentation_options", {"shadow": 6}),
    ],
)
def test_a_wrong_option_is_refused_before_a_folder_is_made(
    key: str, options: dict[str, float], train: Train, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        train(**{key: options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("heading", "function"),
    [("Augmentation", training_augmentation), ("Mixing", MixedBatches.__init__)],
)
def test_the_documented_options_are_those_there_are(
    heading: str, function: Callable[..., object], repository: Path
) -> None:
    text = (repository / "docs" / "bundle.md").read_text("utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]
    stated = {
        name: yaml.safe_load(value)
        for name, value in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M)
    }
    options = inspect.signature(function).parameters.values()
    assert stated == {
        option.name: list(option.default) if isinstance(option.default, tuple) else option.default
        for option in options
        if option.kind is option.KEYWORD_ONLY
    }
