from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from torch import nn

from busi_monai.bundle.shipped import find_bundle
from busi_monai.curation import load_datalist
from busi_monai.errors import InputError
from busi_monai.files import file_sha256, read_json
from busi_monai.settings import InferenceSettings, load_settings
from busi_monai.training import (
    RunFolder,
    load_items,
    read_training_images,
    seen_in_training,
    train_bundle,
)
from busi_monai.training.run_folder import resolved_section, unknown_keys


def config(run: Path, name: str) -> dict:
    return yaml.safe_load((run / "configs" / name).read_text(encoding="utf-8"))


def test_a_run_holds_what_a_bundle_holds(tiny_run: Path) -> None:
    files = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert files >= {
        "LICENSE",
        "docs/README.md",
        "docs/data_license.txt",
        "configs/metadata.json",
        "configs/train.yaml",
        "configs/evaluate.yaml",
        "configs/inference.yaml",
        "configs/logging.conf",
        "models/model.pt",
        "models/last.pt",
        "settings.json",
        "history.csv",
        "history.png",
        "run.json",
    }


def test_every_configuration_names_the_runs_network(tiny_run: Path) -> None:
    networks = [
        config(tiny_run, f"{name}.yaml")["network_def"] for name in ("evaluate", "inference")
    ]
    assert networks[0] == networks[1]
    assert networks[0]["encoder"] == "unet" and networks[0]["classes"] == 3
    assert load_settings(tiny_run).image_size == (32, 32)
    shape = read_json(tiny_run / "configs" / "metadata.json")["network_data_format"]
    assert shape["inputs"]["image"]["spatial_shape"] == [32, 32]


def test_the_training_configuration_can_be_run_again(tiny_run: Path) -> None:
    training = config(tiny_run, "train.yaml")
    assert training["resume"] is False
    assert training["max_epochs"] == 2
    assert training["training"] == training["run"]


def test_the_record_tells_how_it_was_trained(tiny_run: Path) -> None:
    record = json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))
    assert record["epochs"] == record["max_epochs"] == 2
    assert record["device"]["name"] == "cpu" and record["precision"]["name"] == "fp32"
    assert record["best"]["epoch"] in {1, 2} and 0 <= record["best"]["val_score"] <= 1
    assert record["weights_sha256"] == file_sha256(tiny_run / "models" / "model.pt")
    assert record["versions"]["monai"]
    assert record["network"]["image_size"] == [32, 32]
    state = torch.load(tiny_run / "models" / "model.pt", weights_only=True)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    trained = sum(value.numel() for name, value in state.items() if not name.endswith(buffers))
    assert record["network"]["parameters"] == trained


def test_the_run_knows_the_images_that_it_was_trained_on(
    tiny_run: Path, phantom_prepared: Path
) -> None:
    datalist = load_datalist(phantom_prepared)
    assert read_training_images(tiny_run) == {entry["sha256"] for entry in datalist.training}
    assert seen_in_training(tiny_run, load_items(phantom_prepared, "test")) == 0
    assert seen_in_training(tiny_run, load_items(phantom_prepared, "train")) == len(
        datalist.training
    )
    assert seen_in_training(phantom_prepared, load_items(phantom_prepared, "test")) is None


def small_network(stride: int) -> nn.Module:
    network = nn.Conv2d(1, 1, kernel_size=1)
    network.stride = stride  # type: ignore[assignment]
    return network


def start(path: Path, *, resume: bool = False, stride: int = 1) -> None:
    settings = InferenceSettings(image_size=(48, 40))
    RunFolder(path, path, resume=resume).start(settings, small_network(stride))


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_work_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="choose another folder"):
        start(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_size_that_does_not_fit_names_the_next_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"divisible by 32; the next size up is \[64, 64\]"):
        start(tmp_path / "run", stride=32)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_never_validated_has_no_best_epoch(tmp_path: Path) -> None:
    state = SimpleNamespace(epoch=1, max_epochs=1)
    never = SimpleNamespace(best_metric=-1, best_metric_epoch=-1, key_metric_name="val_score")
    run = RunFolder(tmp_path, tmp_path)
    run.finish(SimpleNamespace(state=state), SimpleNamespace(state=never))
    assert read_json(tmp_path / "run.json")["best"] == {"epoch": None, "val_score": None}


def test_a_misspelt_override_through_monai_is_refused(
    phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    workflow = ConfigWorkflow(
        config_file=[str(find_bundle() / "configs" / "train.yaml"), str(tiny_config)],
        logging_file=False,
        workflow_type="train",
        dataset_dir=str(phantom_prepared),
        output_dir=str(tmp_path / "run"),
        device_name="cpu",
        lerning_rate=1,
    )
    with pytest.raises(RuntimeError) as refused:
        workflow.initialize()
    assert "unknown configuration key 'lerning_rate'" in str(refused.value.__cause__)
    assert not (tmp_path / "run").exists()


def test_a_runs_evaluation_names_no_folder_of_its_training(
    tiny_run: Path, phantom_prepared: Path
) -> None:
    assert config(tiny_run, "train.yaml")["dataset_dir"] == [str(phantom_prepared)]
    assert config(tiny_run, "evaluate.yaml")["dataset_dir"] == "./prepared"


VARIANTS = {
    "no mask": {"seg_weight": 0},
    "no class": {"cls_weight": 0},
    "no classes": {"classes": []},
    "clean": {"clean_labels": True, "class_balance": "augmentation"},
    "binary": {"classes": ["benign", "malignant"], "select_by": "auc_malignant"},
    "seldom": {"val_interval": 2, "lr_schedule": "plateau"},
    "never": {"val_interval": 5},
    "supervised": {"deep_supervision": True, "attention": True, "patience": 1},
    "pooled by the mask": {"pooling": "mask"},
    "padded": {"aspect": "pad", "normalisation": "zscore", "weigh_classes": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_describes_itself(
    name: str, phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    options = VARIANTS[name]
    run = train_bundle(
        [phantom_prepared],
        tmp_path / "run",
        configs=[tiny_config],
        overrides={"device_name": "cpu", **options},
    )
    metadata = read_json(run / "configs" / "metadata.json")
    outputs = metadata["network_data_format"]["outputs"]
    classes = options.get("classes", ["normal", "benign", "malignant"])
    classes = [] if options.get("cls_weight") == 0 else classes
    assert metadata["pred_classes"] == classes
    assert (run / "models" / "model.pt").is_file()
    assert len((run / "history.csv").read_text(encoding="utf-8").splitlines()) == 3
    formats = [output["format"] for output in outputs.values()]
    if name == "no mask":
        assert formats == ["classification"]
        assert "network_def_seg" not in config(run, "inference.yaml")
    elif not classes:
        assert formats == ["segmentation"]
    else:
        assert outputs["pred_cls"]["num_channels"] == len(classes)
        assert list(outputs["pred_cls"]["channel_def"].values()) == classes
    if name == "pooled by the mask":
        for file in ("evaluate.yaml", "inference.yaml"):
            assert config(run, file)["network_def"]["pooling"] == "mask"
    if name == "padded":
        assert metadata["network_data_format"]["inputs"]["image"]["value_range"] == []


def test_a_section_is_resolved_to_plain_values() -> None:
    section = {
        "_target_": "torch.nn.Linear",
        "in_features": "$@width * 2",
        "out_features": "@width",
    }
    assert resolved_section({"width": 3, "layer": section}, "layer") == {
        "_target_": "torch.nn.Linear",
        "in_features": 6,
        "out_features": 3,
    }


def test_a_key_that_nothing_refers_to_is_unknown(tmp_path: Path) -> None:
    config = {"width": 1, "use": "$@helper + 1", "helper": 2, "help": 3, "backend": "gloo"}
    (tmp_path / "a.yaml").write_text("width: 3\nuse: 4\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("backend#name: 3\n", encoding="utf-8")
    assert unknown_keys(config, [tmp_path / "a.yaml", tmp_path / "b.yaml"]) == ["help"]
    assert unknown_keys(config, []) == []
