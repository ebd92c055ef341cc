"""The two-stage bundle: every interface the same, true against predicted masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from monai.bundle import create_workflow

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import find_bundle
from busi_monai.cli.main import main
from busi_monai.inference import Predictor
from busi_monai.io.images import read_mask
from busi_monai.metrics import lesion_box
from busi_monai.networks.two_stage import NO_LESION_NORMAL

BUNDLE = "breast_ultrasound_two_stage"


def busi_monai(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("name", ["evaluate", "inference"])
def test_only_the_network_and_the_true_masks_differ_from_the_multitask_bundle(name: str) -> None:
    ours, theirs = (Bundle(root).config(name) for root in (find_bundle(BUNDLE), find_bundle()))
    allowed = {"network_def"}
    if name == "evaluate":
        allowed |= {"true_masks", "provenance"}
        ours["evaluator"].pop("prepare_batch"), theirs["evaluator"].pop("prepare_batch")
    assert {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)} == allowed


def test_a_stages_training_is_an_overlay_of_known_keys() -> None:
    from busi_monai.training import check_keys

    train = find_bundle() / "configs" / "train.yaml"
    for stage in ("segmentation", "classification"):
        check_keys([train, find_bundle(BUNDLE) / "configs" / f"train_{stage}.yaml"], {})


@pytest.fixture(scope="module")
def evaluations(
    two_stage_run: Path, phantom_prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The training part, end to end and with true masks, by the command."""
    out = tmp_path_factory.mktemp("evaluations")
    for name, more in {"predicted": [], "true": ["--set", "true_masks=true"]}.items():
        result = busi_monai(
            "evaluate", two_stage_run, phantom_prepared, "--out", out / name, "--split", "train",
            "--device", "cpu", "--no-overlays", "--resamples", 10, "-q", *more,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    return {name: out / name for name in ("predicted", "true")}


def test_every_interface_predicts_the_same(
    evaluations: dict[str, Path], two_stage_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    workflow = create_workflow(
        config_file=str(two_stage_run / "configs" / "inference.yaml"), workflow_type="infer",
        device_name="cpu", dataset_dir=str(phantom_prepared / "images"),
        output_dir=str(tmp_path / "out"), overlays=False,
    )  # fmt: skip
    workflow.run()
    workflow.finalize()
    through_monai = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("id")
    table = pd.read_csv(evaluations["predicted"] / "predictions.csv")
    predictor = Predictor.load(two_stage_run, device="cpu")
    assert len(table) > 10
    for row in table.to_dict("records"):
        expected = predictor.predict(phantom_prepared / "images" / f"{row['id']}.png")
        for folder in (evaluations["predicted"], tmp_path / "out"):
            mask = read_mask(folder / "masks" / f"{row['id']}.png")
            assert np.array_equal(mask, expected.mask > 0)
        for name, probability in expected.probabilities.items():
            assert row[f"p_{name}"] == pytest.approx(probability, abs=2e-6)
            found = through_monai.loc[row["id"], f"p_{name}"]
            assert found == pytest.approx(probability, abs=2e-6)


def test_true_masks_change_the_class_and_leave_the_mask(evaluations: dict[str, Path]) -> None:
    tables = {
        name: pd.read_csv(folder / "predictions.csv").set_index("id")
        for name, folder in evaluations.items()
    }
    predicted, true = tables["predicted"], tables["true"]
    pd.testing.assert_series_equal(predicted["dice"], true["dice"])
    assert (predicted["p_benign"] - true["p_benign"]).abs().max() > 1e-4
    # when_no_lesion is normal in this run, and a normal has no true lesion
    normal = true["true_class"] == "normal"
    np.testing.assert_allclose(true.loc[normal, "p_normal"], NO_LESION_NORMAL, atol=1e-6)
    for name, folder in evaluations.items():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["lesion_boxes"] == f"{name} masks"
        assert metrics["seen_in_training"] == metrics["images"]
        assert f"{name} masks" in (folder / "report.md").read_text(encoding="utf-8")


def test_true_masks_give_what_a_crop_by_hand_gives(
    evaluations: dict[str, Path], two_stage_run: Path, phantom_prepared: Path
) -> None:
    table = pd.read_csv(evaluations["true"] / "predictions.csv")
    row = table[table["true_class"] == "malignant"].iloc[0]
    predictor = Predictor.load(two_stage_run, device="cpu")
    network = predictor.network
    image = str(phantom_prepared / "images" / f"{row['id']}.png")
    loaded = predictor._torch._preprocessing({"image": image})["image"].as_tensor()
    truth = read_mask(phantom_prepared / "labels" / f"{row['id']}.png")
    rows, columns = (
        np.floor((np.arange(count) + 0.5) * length / count).astype(int)
        for count, length in zip((64, 96), truth.shape, strict=True)
    )
    left, top, width, height = lesion_box(truth[np.ix_(rows, columns)])
    low = np.maximum([left - 0.4 * width, top - 0.4 * height], 0)
    high = np.minimum([left + 1.4 * width, top + 1.4 * height], [96, 64])
    logits = []
    for turned in (False, True):
        grid = torch.stack(
            torch.meshgrid(
                torch.from_numpy(low[1] + (high - low)[1] * (np.arange(48) + 0.5) / 48),
                torch.from_numpy(low[0] + (high - low)[0] * (np.arange(80) + 0.5) / 80),
                indexing="ij",
            ),
        ).float()
        places = torch.stack([grid[1] / 48 - 1, grid[0] / 32 - 1], dim=2)[None]
        fine = torch.nn.functional.grid_sample(
            loaded[None], places, padding_mode="border", align_corners=False
        )
        crop = torch.nn.functional.avg_pool2d(fine, 2)
        crop = torch.flip(crop, (-1,)) if turned else crop
        with torch.no_grad():
            logits.append(network.classifier(crop)["cls"][0])
    expected = torch.softmax((logits[0] + logits[1]) / 2, dim=0)
    found = [row[f"p_{name}"] for name in ("normal", "benign", "malignant")]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_command_trains_both_stages(
    phantom_prepared: Path, tiny_stages_config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = busi_monai(
        "train", phantom_prepared, "--model", BUNDLE, "--out", run, "--config",
        tiny_stages_config, "--device", "cpu", "-q", "--epochs", 1,
        "--set", "classification::max_epochs=2", "--set", "segmentation::image_size=[32, 48]",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Stage segmentation: 1 epoch on cpu" in result.output
    assert "Stage classification: 2 epochs on cpu" in result.output
    assert "not a medical device" in result.output
    network = yaml.safe_load((run / "configs" / "inference.yaml").read_text())["network_def"]
    assert network["segmenter_size"] == [32, 48]
    again = busi_monai("train", phantom_prepared, "--model", BUNDLE, "--out", run)
    assert again.exit_code == 2 and "--resume" in again.output
    predicted = busi_monai(
        "predict", phantom_prepared / "images", "--model", run, "--out", tmp_path / "out", "-q"
    )
    assert predicted.exit_code == 0, predicted.output
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 24


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "classification::encodr=unet"], "unknown configuration key 'encodr'"),
        (["--set", "pipeline::size=3"], "unknown key 'pipeline::size'"),
        (["--set", "cls_weight=0.5"], "each stage trains its one head"),
    ],
)
def test_wrong_settings_are_refused(
    words: list[str], message: str, phantom_prepared: Path, tmp_path: Path
) -> None:
    result = busi_monai(
        "train", phantom_prepared, "--model", BUNDLE, "--out", tmp_path / "run", *words
    )
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "run").exists()


def test_true_masks_are_unknown_to_other_bundles(
    tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    result = busi_monai(
        "evaluate", tiny_run, phantom_prepared, "--out", tmp_path / "out", "--set",
        "true_masks=true",
    )  # fmt: skip
    assert result.exit_code == 2 and "unknown configuration key 'true_masks'" in result.output


def test_a_crop_classifier_says_that_it_gets_whole_images(
    two_stage_run: Path, phantom_prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = two_stage_run / "stages" / "classification"
    out = tmp_path / "out"
    result = busi_monai("predict", phantom_prepared / "images", "--model", run, "--out", out, "-q")
    assert result.exit_code == 0, result.output
    assert caplog.text.count("comes without a mask") == 1
    table = pd.read_csv(out / "predictions.csv")
    assert len(table) == 24 and table["error"].isna().all()
