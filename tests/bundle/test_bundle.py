"""``Bundle``: what it opens, what it reads, and what the one writer makes of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from busi_monai.bundle import Bundle
from busi_monai.bundle.writing import write_bundle
from busi_monai.errors import InputError, WeightsError
from busi_monai.files import file_sha256, read_json
from busi_monai.settings import InferenceSettings


def test_a_shipped_bundle_is_opened_by_name(repository: Path) -> None:
    bundle = Bundle.open("breast_ultrasound_two_stage")
    assert bundle.folder == repository / "bundles" / "breast_ultrasound_two_stage"
    assert bundle.name == "breast_ultrasound_two_stage"


def test_what_is_neither_shipped_nor_a_folder_is_refused() -> None:
    with pytest.raises(InputError, match="no bundle or run 'none'"):
        Bundle.open("none")


def test_it_reads_what_is_there(tiny_run: Path) -> None:
    run = Bundle.open(tiny_run)
    assert run.settings.image_size == (32, 32)
    assert run.config("train")["encoder"] == "unet"
    assert run.weights_sha256 == file_sha256(run.weights)
    assert run.record is not None
    assert run.training_record is not None
    assert run.training_record["epochs"] == run.record["epochs"] == 2
    assert "versions" in run.record
    assert "versions" not in run.training_record


def test_what_is_missing_is_none_or_named(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    assert bundle.record is None
    assert bundle.training_record is None
    with pytest.raises(InputError, match=r"settings\.json does not exist"):
        _ = bundle.settings
    with pytest.raises(InputError, match=r"train\.yaml does not exist"):
        bundle.config("train")


def test_the_network_has_the_weights(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    network = bundle.network()
    assert not network.training
    state = torch.load(bundle.weights, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_weights_of_another_network_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = write_bundle(
        tmp_path / "copy",
        Bundle(tiny_bundle),
        {"_target_": "busi_monai.networks.MultiTaskUNet", "encoder": "unet"},
        InferenceSettings(),
    )
    copy.weights.parent.mkdir()
    copy.weights.write_bytes(Bundle(tiny_bundle).weights.read_bytes())
    with pytest.raises(WeightsError):
        copy.network()


def test_the_writer_states_size_heads_and_classes(tiny_bundle: Path, tmp_path: Path) -> None:
    settings = InferenceSettings(image_size=(64, 96), classes=("benign", "malignant"))
    written = write_bundle(
        tmp_path / "bundle",
        Bundle(tiny_bundle),
        {"_target_": "busi_monai.networks.MultiTaskUNet", "segmentation": False},
        settings,
        segmentation=False,
        fold=3,
        card={"Data": "Phantoms."},
        description="For classes alone.",
        first_steps=["$print('first')"],
    )
    assert written.settings == settings
    assert "network_def_seg" not in written.config("inference")
    assert written.config("evaluate")["fold"] == 3
    assert written.config("evaluate")["initialize"][0] == "$print('first')"
    metadata = read_json(written.metadata_file)
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [64, 96]
    assert list(metadata["network_data_format"]["outputs"]) == ["pred"]
    assert metadata["pred_classes"] == ["benign", "malignant"]
    assert metadata["description"].startswith("For classes alone. ")
    assert "# Data\n\nPhantoms." in written.card.read_text("utf-8")


def test_a_shipped_evaluation_lies_over_inference_and_a_written_one_is_complete(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    shipped = Bundle(tiny_bundle)
    assert [path.name for path in shipped.config_files("evaluate")] == [
        "inference.yaml",
        "evaluate.yaml",
    ]
    written = write_bundle(tmp_path, shipped, shipped.network_definition(), shipped.settings)
    assert len(written.config_files("evaluate")) == 1
    assert written.config("evaluate").keys() == shipped.config("evaluate").keys()
    assert written.config("evaluate")["preprocessing"]["with_label"] is True
    assert written.config("evaluate")["dataset"]["data"] == "@data"
