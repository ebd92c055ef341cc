"""Every door gives the same mask and probabilities for the same image."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from monai.bundle import ConfigWorkflow

from busi_monai.bundle import Bundle
from busi_monai.cli.main import main
from busi_monai.curation import prepare_dataset
from busi_monai.errors import ImageReadError, InputError
from busi_monai.evaluation import evaluate_predictions, read_predictions
from busi_monai.inference import Predictor
from busi_monai.io.images import frames_of, read_image, read_mask
from busi_monai.metrics import segmentation_scores
from busi_monai.settings import load_settings


@pytest.fixture(scope="module")
def prepared(phantom_busi: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare_dataset(phantom_busi, out)
    return out


def run_bundle(bundle: Path, config: str, **overrides: object) -> None:
    workflow = ConfigWorkflow(
        config_file=[str(path) for path in Bundle(bundle).config_files(config)],
        workflow_type="infer",
        init_id="initialize",
        run_id="run",
        final_id="finalize",
        logging_file=False,
        bundle_root=str(bundle),
        device_name="cpu",
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def assert_same(table: pd.DataFrame, out: Path, predictor: Predictor) -> None:
    for row in table.to_dict("records"):
        expected = predictor.predict(row["image"])
        mask = read_mask(out / "masks" / f"{row['id']}.png")
        assert np.array_equal(mask, expected.mask > 0), row["id"]
        assert row["predicted_class"] == expected.predicted_class
        for name, probability in expected.probabilities.items():
            assert row[f"p_{name}"] == pytest.approx(probability, abs=2e-6), row["id"]


def test_the_bundles_inference_gives_what_the_predictor_gives(
    tiny_bundle, predictor, prepared, image, tmp_path
):
    run_bundle(
        tiny_bundle,
        "inference",
        dataset_dir=[str(prepared / "images"), str(image)],
        output_dir=str(tmp_path / "out"),
        batch_size=4,
    )
    table = read_predictions(tmp_path / "out")
    assert len(table) == len(list((prepared / "images").iterdir())) + 1
    assert_same(table, tmp_path / "out", predictor)
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["weights_sha256"] == predictor.provenance()["weights_sha256"]


def test_each_frame_of_a_loop_comes_through_the_bundles_inference(
    tiny_bundle, predictor, image, save_ultrasound, tmp_path
):
    still = np.round(read_image(image).pixels * 255).astype(np.uint8)
    path = save_ultrasound(tmp_path / "cine.dcm", np.stack([still, still[::-1], 255 - still]))
    run_bundle(tiny_bundle, "inference", dataset_dir=[str(path)], output_dir=str(tmp_path / "out"))

    table = read_predictions(tmp_path / "out")

    assert list(table["id"]) == ["cine_frame_001", "cine_frame_002", "cine_frame_003"]
    assert list(table["frame"]) == [1, 2, 3]
    for row, (_, expected) in zip(
        table.to_dict("records"),
        predictor.predict_many(frames_of(path).images),
        strict=True,
    ):
        mask = read_mask(tmp_path / "out/masks" / f"{row['id']}.png")
        assert np.array_equal(mask, expected.mask > 0)
        assert row["p_malignant"] == pytest.approx(expected.probabilities["malignant"], abs=2e-6)


def test_the_command_gives_what_the_bundles_inference_gives(tiny_bundle, prepared, image, tmp_path):
    images = str(prepared / "images")
    run_bundle(tiny_bundle, "inference", dataset_dir=images, output_dir=str(tmp_path / "bundle"))
    result = CliRunner().invoke(
        main,
        ["predict", images, "--out", str(tmp_path / "cli"), "--model", str(tiny_bundle),
         "--device", "cpu", "--quiet"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    ours, theirs = read_predictions(tmp_path / "cli"), read_predictions(tmp_path / "bundle")
    pd.testing.assert_frame_equal(
        ours.drop(columns="seconds"), theirs.drop(columns="seconds"), check_exact=False, atol=2e-6
    )
    for name in ours["id"]:
        one, other = (tmp_path / door / "masks" / f"{name}.png" for door in ("cli", "bundle"))
        assert one.read_bytes() == other.read_bytes()


def test_the_bundles_evaluation_measures_the_predictors_masks(
    tiny_bundle, predictor, prepared, tmp_path
):
    run_bundle(
        tiny_bundle,
        "evaluate",
        dataset_dir=str(prepared),
        output_dir=str(tmp_path / "out"),
        split="train",
        batch_size=3,
        resamples=20,
    )
    table = read_predictions(tmp_path / "out")
    assert_same(table, tmp_path / "out", predictor)
    for row in table.to_dict("records"):
        assert row["id"].startswith(row["true_class"])
        truth = read_mask(prepared / "labels" / f"{row['id']}.png")
        assert truth.sum() == row["true_lesion_pixels"]
        expected = segmentation_scores(predictor.predict(row["image"]).mask > 0, truth)
        assert row["dice"] == pytest.approx(expected["dice"], abs=1e-6)
        assert row["iou"] == pytest.approx(expected["iou"], abs=1e-6)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    again = evaluate_predictions(table, resamples=20)
    assert metrics["lesion_dice"] == again["lesion_dice"]
    assert metrics["images"] == len(table)
    assert metrics["split"] == "train" and metrics["datalist_sha256"]
    assert (tmp_path / "out" / "report.md").is_file()


def test_the_bundle_lists_unreadable_images_and_ends_with_an_error(tiny_bundle, image, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    inputs = [str(tmp_path / "bad.png"), str(image)]
    with pytest.raises(RuntimeError) as caught:
        run_bundle(tiny_bundle, "inference", dataset_dir=inputs, output_dir=str(tmp_path / "out"))
    assert isinstance(caught.value.__cause__, ImageReadError)
    assert "bad.png" in str(caught.value.__cause__)
    table = read_predictions(tmp_path / "out").set_index("id")
    assert "0 bytes" in table.loc["bad", "error"]
    assert table.loc[image.stem, "error"] == ""


def test_the_bundle_refuses_to_end_well_without_a_image(tiny_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError) as caught:
        run_bundle(
            tiny_bundle,
            "inference",
            dataset_dir=str(tmp_path / "empty"),
            output_dir=str(tmp_path / "out"),
        )
    assert isinstance(caught.value.__cause__, InputError)
    assert "holds no images" in str(caught.value.__cause__)
    assert not (tmp_path / "out").exists()


def predicted_by_both_doors(
    bundle: Path, images: Path, folder: Path, option: str, **setting: bool
) -> list[Path]:
    """Predictions of the command with an option, and of the bundle with the setting."""
    ours, theirs = folder / "ours", folder / "theirs"
    words = ["predict", images, "--model", bundle, "--out", ours, "--device", "cpu", option, "-q"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    run_bundle(bundle, "inference", dataset_dir=str(images), output_dir=str(theirs), **setting)
    return [ours, theirs]


def test_consistency_can_be_turned_on_at_every_door(
    tiny_bundle: Path, prepared: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    settings = load_settings(bundle)
    every_lesion = replace(settings.consistency, min_lesion_fraction=1.0)
    cautious = {"benign": 0.0, "malignant": 1.0}  # calls all benign
    replace(settings, consistency=every_lesion, class_thresholds=cautious).save(bundle)
    plain = Predictor.load(bundle, "cpu")
    agreeing = Predictor.load(bundle, "cpu", consistency=True)
    assert agreeing.provenance()["consistency"] and not plain.provenance()["consistency"]
    for folder in predicted_by_both_doors(
        bundle, prepared / "images", tmp_path, "--consistency", consistency=True
    ):
        table = read_predictions(folder)
        assert_same(table, folder, agreeing)
        assert set(table["predicted_class"]) == {"normal"}
        record = json.loads((folder / "run.json").read_text("utf-8"))["consistency"]
        assert record["enabled"] is True and record["min_lesion_fraction"] == 1.0
    assert plain.predict(table["image"][0]).predicted_class == "benign"


def test_flip_averaging_can_be_turned_off_at_every_door(
    tiny_bundle: Path, prepared: Path, tmp_path: Path
) -> None:
    plain = Predictor.load(tiny_bundle, "cpu", tta_flip=False)
    averaged = Predictor.load(tiny_bundle, "cpu")
    assert averaged.tta_flip and not plain.tta_flip
    for folder in predicted_by_both_doors(
        tiny_bundle, prepared / "images", tmp_path, "--no-tta-flip", tta_flip=False
    ):
        table = read_predictions(folder)
        assert_same(table, folder, plain)
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert record["tta_flip"] is False
    first = table.iloc[0]
    other = averaged.predict(first["image"]).probabilities["malignant"]
    assert abs(other - first["p_malignant"]) > 1e-6
