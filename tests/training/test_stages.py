"""Two trainings in turn: what each is told, what is kept, what is not done twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from busi_monai.bundle.configurations import read_configuration
from busi_monai.bundle.shipped import DEFAULT_BUNDLE
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.training import train_bundle
from busi_monai.training.stages import STAGES, _Observer, is_staged, stage_layers

BUNDLE = "breast_ultrasound_two_stage"


def merged(layers: list[dict]) -> dict:
    return {key: value for layer in layers for key, value in layer.items()}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_plain_settings_go_to_both_stages_and_sections_to_one() -> None:
    layers = stage_layers(
        [{"batch_size": 4, "classification": {"batch_size": 8}, "pipeline": {"clahe": True}}],
        {"seed": 3, "segmentation::encoder": "unet", "classification#train#x": 1,
         "pipeline#tta_flip": False},
    )  # fmt: skip
    assert merged(layers["segmentation"]) == {"batch_size": 4, "seed": 3, "encoder": "unet"}
    assert merged(layers["classification"]) == {"batch_size": 8, "seed": 3, "train#x": 1}
    assert merged(layers["pipeline"]) == {"clahe": True, "tta_flip": False}


def test_what_makes_a_stage_itself_is_kept_from_overlays_for_both() -> None:
    overlay = {"seg_weight": 0.5, "cls_weight": 0.5, "lesion_crop": {"margin": 0.3}}
    layers = stage_layers([overlay], {"lesion_crop#margin": 0.4})
    assert merged(layers["segmentation"]) == {}
    assert merged(layers["classification"]) == {
        "lesion_crop": {"margin": 0.3}, "lesion_crop#margin": 0.4,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["seg_weight", "classification::cls_weight"])
def test_a_stage_cannot_be_turned_into_another(key: str) -> None:
    with pytest.raises(InputError, match="each stage trains its one head"):
        stage_layers([], {key: 1.0})


def test_the_stages_are_runs_of_their_one_head(two_stage_run: Path) -> None:
    for stage, (heads, size) in {
        "segmentation": ("seg", [32, 32]), "classification": ("cls", [24, 40]),
    }.items():  # fmt: skip
        run = two_stage_run / "stages" / stage
        network = yaml.safe_load((run / "configs" / "inference.yaml").read_text())["network_def"]
        assert network["segmentation"] == (heads == "seg")
        assert network["classes"] == (3 if heads == "cls" else 0)
        inference_settings = read_json(run / "settings.json")
        assert inference_settings["image_size"] == size
        assert (inference_settings["lesion_crop"] is None) == (heads == "seg")
        assert len(pd.read_csv(run / "history.csv")) == 2
    assert inference_settings["lesion_crop"] == {"margin": 0.4, "when_no_lesion": "normal"}
    record = read_json(two_stage_run / "run.json")
    assert record["epochs"] == record["max_epochs"] == 4 and record["network"]["parameters"] > 0
    assert set(record["stages"]) == set(STAGES)


def train(prepared: Path, out: Path, config: Path, **more: object) -> Path:
    overrides = {"device_name": "cpu", **more.pop("overrides", {})}
    return train_bundle(
        [prepared], out, bundle=BUNDLE, configs=[config], overrides=overrides, **more
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_stage_is_not_repeated(
    stage: str,
    two_stage_run: Path,
    phantom_prepared: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Interrupt after the first stage, or within it, and go on without the overlay.

    What may change then is for the other stage, and kept with that one alone.
    """
    run = tmp_path / "run"
    shutil.copytree(two_stage_run / "stages", run / "stages")
    other = next(name for name in STAGES if name != stage)
    shutil.rmtree(run / "stages" / stage)
    before = snapshot(run / "stages" / other)
    again = train_bundle([phantom_prepared], run, resume=True, overrides={"patience": 7})
    assert again == run and snapshot(run / "stages" / other) == before
    whole, resumed = (read_json(folder / "run.json") for folder in (two_stage_run, run))
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert f"{run / 'stages' / other} is complete: patience has no effect on it" in caplog.text
    for name in STAGES:
        kept = read_configuration(run / "configs" / f"train_{name}.yaml")
        assert kept.get("patience") == (7 if name == stage else None)
        trained = read_configuration(run / "stages" / name / "configs" / "train.yaml")
        assert trained["patience"] == (7 if name == stage else 40)
        assert trained["device_name"] == "cpu"


def test_an_interrupted_stage_goes_on_with_what_may_change(
    two_stage_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    """Here its record alone is missing, so that nothing is left to train."""
    run = shutil.copytree(two_stage_run, tmp_path / "run")
    stage = run / "stages" / "classification"
    for folder in (run, stage):
        (folder / "run.json").unlink()
    train_bundle([phantom_prepared], run, resume=True, overrides={"patience": 7})
    assert read_json(run / "stages" / "settings.json")["classification"][-1] == {"patience": 7}
    assert read_json(stage / "run.json")["sessions"][0]["interrupted"]
    assert (run / "run.json").is_file()


def test_a_complete_run_stays_as_it_is(
    two_stage_run: Path, phantom_prepared: Path, tiny_stages_config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_stage_run, run)
    settings = run / "stages" / "settings.json"
    before = snapshot(run)
    train(phantom_prepared, run, tiny_stages_config, resume=True)
    train_bundle([phantom_prepared], run, resume=True, overrides={"patience": 7})
    after = snapshot(run)
    assert after.pop("stages/settings.json")[0] == before.pop("stages/settings.json")[0]
    assert settings.is_file() and after == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"overrides": {"median_filter": 3}}, "segmentation was .*: median_filter was 0, now 3"),
        (
            {"overrides": {"classification::lesion_crop#margin": 0.3}},
            "classification was .*: lesion_crop#margin was 0.4, now 0.3",
        ),
        ({"overrides": {"train#trainr#amp": True}}, "train#trainr#amp was left out, now True"),
        ({"overrides": {"pipeline#clahe": True}}, "pipeline#clahe was left out, now True"),
        ({"overrides": {"max_epochs": 3}}, "max_epochs was 2, now 3"),
        ({"configs": ["smoke"]}, r"image_size was \[32, 32\], now \[64, 64\]"),
        ({"bundle": DEFAULT_BUNDLE}, f"bundle was '{BUNDLE}', now '{DEFAULT_BUNDLE}'"),
        ({"bundle": BUNDLE}, r"image_size was \[32, 32\], now \[256, 256\]|pipeline"),
    ],
)
def test_other_settings_are_refused_on_resuming(
    more: dict, told: str, two_stage_run: Path, phantom_prepared: Path
) -> None:
    before = snapshot(two_stage_run)
    with pytest.raises(InputError, match=told):
        train_bundle([phantom_prepared], two_stage_run, resume=True, **more)
    assert snapshot(two_stage_run) == before


def test_other_images_are_refused_though_a_stage_is_complete(
    two_stage_run: Path, other_prepared: Path
) -> None:
    with pytest.raises(InputError, match="segmentation was started with other training images"):
        train_bundle([other_prepared], two_stage_run, resume=True)


def test_other_masks_are_refused_though_a_stage_is_complete(
    two_stage_run: Path, corrected_prepared: Path
) -> None:
    with pytest.raises(InputError, match="segmentation was begun with other masks of 16 cases: "):
        train_bundle([corrected_prepared], two_stage_run, resume=True)


def test_a_folder_in_use_is_refused(phantom_prepared: Path, tiny_stages_config, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty"):
        train(phantom_prepared, tmp_path, tiny_stages_config)
    with pytest.raises(InputError, match="no run to resume"):
        train(phantom_prepared, tmp_path, tiny_stages_config, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"classification#encodr": "unet"}, "unknown configuration key 'encodr'"),
        ({"pipeline#imagesize": [64, 64]}, "unknown key 'pipeline::imagesize'; expected one of"),
        ({"pipeline#aspect": "pad"}, "unknown key 'pipeline::aspect'"),
        ({"pipeline#image_size": [64]}, "image_size must be \\(height, width\\)"),
        ({"pipeline#image_size": "abc"}, "pipeline: image_size must be .* got 'abc'"),
        ({"pipeline#consistency": 3}, "pipeline: consistency must be a mapping"),
        ({"pipeline#temperature": "warm"}, "pipeline: "),
        ({"pipeline#mask_threshold": 1}, "mask_threshold must lie between 0 and 1"),
        ({"segmentation#encoder": "resnet19"}, "resnet19"),
        ({"pooling": "mask"}, "this stage has no mask head"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_trained(
    overrides: dict, message: str, phantom_prepared: Path, tiny_stages_config: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train(phantom_prepared, tmp_path / "run", tiny_stages_config, overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_a_run_is_a_bundle_to_train_from(two_stage_run: Path) -> None:
    assert is_staged(two_stage_run) and is_staged(BUNDLE)
    assert not is_staged("breast_ultrasound_segmentation_classification")
    told = yaml.safe_load((two_stage_run / "configs" / "train_classification.yaml").read_text())
    assert told["lesion_crop"] == {"margin": 0.4, "when_no_lesion": "normal"}
    assert told["image_size"] == [24, 40] and told["cls_weight"] == 1.0


def test_an_observer_counts_on_and_stops_every_stage() -> None:
    seen: list[int] = []

    def observe(epoch: int, figures: dict[str, float]) -> bool:
        seen.append(epoch)
        return epoch == 3

    observer = _Observer(observe)
    assert [observer(epoch, {}) for epoch in (1, 2)] == [False, False]
    observer.before += 2
    assert observer(1, {}) is True
    observer.before += 2
    assert observer(1, {}) is True and seen == [1, 2, 3]


def test_settings_that_are_damaged_are_named(phantom_prepared: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "stages" / "settings.json", {"bundle": BUNDLE})
    with pytest.raises(InputError, match=r"settings\.json"):
        train_bundle([phantom_prepared], tmp_path / "run", resume=True)
