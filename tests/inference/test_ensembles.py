from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from busi_monai.cli.main import main
from busi_monai.curation.label_hashes import write_label_hashes
from busi_monai.errors import InputError, WeightsError
from busi_monai.evaluation import read_predictions
from busi_monai.inference import (
    Predictor,
    export_bundle,
    refuse_seen_images,
    write_ensemble,
)
from busi_monai.networks import MultiTaskUNet
from busi_monai.settings import InferenceSettings
from busi_monai.training import (
    load_items,
    read_training_images,
    run_evaluation,
    seen_in_training,
)

MakeMember = Callable[..., Path]


@pytest.fixture
def member(tiny_bundle: Path, tmp_path: Path) -> MakeMember:
    """``member(name, widths, seed, **settings)`` copies the tiny bundle with other weights."""

    def make(
        name: str, widths: tuple[int, ...] = (4, 8, 16), seed: int = 2, **inference_settings: object
    ) -> Path:
        bundle = shutil.copytree(tiny_bundle, tmp_path / name)
        network = {"encoder": "unet", "encoder_options": {"widths": list(widths)}}
        for path in (bundle / "configs").glob("*.yaml"):
            config = yaml.safe_load(path.read_text("utf-8"))
            if "network_def" in config:
                config["network_def"] |= network
                path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            untrained = MultiTaskUNet(**network, head_channels=[])
        torch.save(untrained.state_dict(), bundle / "models" / "model.pt")
        values = {"image_size": (32, 48), "tta_flip": True, **inference_settings}
        InferenceSettings(**values).save(bundle)
        return bundle

    return make


def test_probabilities_are_the_members_geometric_mean(
    member: MakeMember, image: Path, tmp_path: Path
) -> None:
    bundles = [member("a", seed=2), member("b", (4, 8), seed=3, temperature=2.0), member("c")]
    out = write_ensemble(bundles, tmp_path / "ensemble ü")
    predictions = [Predictor.load(bundle, device="cpu").predict(image) for bundle in bundles]
    found = Predictor.load(out, device="cpu").predict(image)
    logs = np.log([list(prediction.probabilities.values()) for prediction in predictions])
    expected = np.exp(logs.mean(axis=0))
    expected /= expected.sum()
    assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_the_bundles_own_door_and_the_exports_agree(
    member: MakeMember, image: Path, tmp_path: Path
) -> None:
    out = write_ensemble([member("a"), member("b", (4, 8), seed=3)], tmp_path / "ensemble")
    expected = Predictor.load(out, device="cpu").predict(image)
    words = ["predict", str(image), "--model", str(out), "--device", "cpu", "-q"]
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "predictions")])
    assert result.exit_code == 0, result.output
    (row,) = read_predictions(tmp_path / "predictions").to_dict("records")
    assert row["p_benign"] == pytest.approx(expected.probabilities["benign"], abs=2e-6)
    assert row["lesion_pixels"] == expected.lesion_pixels
    for format, name in {"torchscript": "network.ts", "pt2": "network.pt2"}.items():
        report = export_bundle(out, tmp_path / name, format, check=[image])
        assert report.outputs == ("lesion_probability", "mask", "logits", "features")
        assert (report.images, report.mask_difference) == (1, 0) and report.max_difference < 1e-5


def test_an_ensemble_may_be_a_member(member: MakeMember, image: Path, tmp_path: Path) -> None:
    bundles = [member(name, seed=seed) for seed, name in enumerate("abc")]
    inner = write_ensemble(bundles[:2], tmp_path / "inner")
    outer = write_ensemble([inner, bundles[2]], tmp_path / "outer")
    a, b, c = (
        np.log(list(Predictor.load(bundle, device="cpu").predict(image).probabilities.values()))
        for bundle in bundles
    )
    expected = np.exp(a / 4 + b / 4 + c / 2)
    found = Predictor.load(outer, device="cpu").predict(image).probabilities
    assert list(found.values()) == pytest.approx(expected / expected.sum(), abs=1e-5)


def test_weights_are_plain_tensors_of_all_members(member: MakeMember, tmp_path: Path) -> None:
    bundles = [member("a"), member("b", seed=5)]
    out = write_ensemble(bundles, tmp_path / "ensemble")
    joined = torch.load(out / "models" / "model.pt", weights_only=True)
    for index, bundle in enumerate(bundles):
        own = torch.load(bundle / "models" / "model.pt", weights_only=True)
        assert all(torch.equal(joined[f"members.{index}.{n}"], v) for n, v in own.items())
    record = json.loads((out / "run.json").read_text("utf-8"))
    weights = sum(p.numel() for p in Predictor.load(out, device="cpu").network.parameters())
    assert record["network"]["parameters"] == weights
    assert [entry["name"] for entry in record["members"]] == ["a", "b"]
    card = (out / "docs" / "README.md").read_text("utf-8")
    assert "An ensemble of 2 networks" in card and "- b, weights" in card
    metadata = json.loads((out / "configs" / "metadata.json").read_text("utf-8"))
    assert metadata["eval_metrics"] == {}
    assert metadata["description"].startswith("Ensemble of 2 networks")
    assert json.loads((out / "settings.json").read_text("utf-8"))["temperature"] == 1.0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"image_size": (64, 48)}, "image_size is"),
        ({"normalisation": "zscore"}, "normalisation is unit"),
        ({"tta_flip": False}, "tta_flip is True"),
        ({"class_thresholds": {"malignant": 0.3}}, "thresholds for different classes"),
    ],
)
def test_members_that_are_used_differently_are_refused(
    member: MakeMember, tmp_path: Path, settings: dict[str, object], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        write_ensemble([member("a"), member("b", **settings)], tmp_path / "ensemble")
    assert not (tmp_path / "ensemble").exists()


def test_thresholds_are_averaged(member: MakeMember, tmp_path: Path) -> None:
    bundles = [
        member(name, class_thresholds={"malignant": value}, mask_threshold=value)
        for name, value in {"a": 0.2, "b": 0.6}.items()
    ]
    config = bundles[1] / "configs" / "inference.yaml"  # as runs of version 0.1.0 name it
    named = config.read_text("utf-8").replace("networks.autocast.Auto", "training.Auto")
    config.write_text(named, "utf-8")
    out = write_ensemble(bundles, tmp_path / "ensemble")
    content = json.loads((out / "settings.json").read_text("utf-8"))
    assert content["mask_threshold"] == pytest.approx(0.4)
    assert content["class_thresholds"] == {"malignant": pytest.approx(0.4)}


def test_wrong_members_are_named(member: MakeMember, tmp_path: Path) -> None:
    one, other = member("a"), member("b")
    config = yaml.safe_load((other / "configs" / "inference.yaml").read_text("utf-8"))
    config["postprocessing"] = {"_target_": "busi_monai.transforms.prediction_postprocessing"}
    (other / "configs" / "inference.yaml").write_text(yaml.safe_dump(config), "utf-8")
    with pytest.raises(InputError, match="postprocessing in configs"):
        write_ensemble([one, other], tmp_path / "out")
    with pytest.raises(InputError, match="at least two"):
        write_ensemble([one], tmp_path / "out")
    with pytest.raises(InputError, match="more than once"):
        write_ensemble([one, one], tmp_path / "out")
    (one / "models" / "model.pt").unlink()
    with pytest.raises(WeightsError, match="does not exist"):
        write_ensemble([one, member("c")], tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_an_ensemble_never_scores_what_a_member_was_trained_on(
    tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    second = shutil.copytree(tiny_run, tmp_path / "second")
    images = json.loads((second / "training_images.json").read_text("utf-8"))["sha256"]
    datalist = json.loads((phantom_prepared / "datalist.json").read_text("utf-8"))
    reported = [item["sha256"] for item in datalist["test"]]
    (second / "training_images.json").write_text(json.dumps({"sha256": reported[:1]}), "utf-8")
    result = CliRunner().invoke(
        main, ["ensemble", str(tiny_run), str(second), "--out", str(tmp_path / "ensemble")]
    )
    assert result.exit_code == 0, result.output
    assert "2 networks" in result.output and "not a medical device" in result.output
    out = tmp_path / "ensemble"
    assert read_training_images(out) == {*images, reported[0]}
    settings = {"device_name": "cpu", "resamples": 5, "overlays": False}
    with pytest.raises(InputError, match="1 of 3 images were trained on by a member"):
        run_evaluation(out, [phantom_prepared], tmp_path / "evaluation", overrides=settings)
    assert not (tmp_path / "evaluation").exists()
    run_evaluation(out, [phantom_prepared], tmp_path / "fit", split="train", overrides=settings)
    assert len(read_predictions(tmp_path / "fit")) == len(datalist["training"])
    honest = write_ensemble([tiny_run, copy_of(tiny_run, tmp_path)], tmp_path / "honest")
    run_evaluation(honest, [phantom_prepared], tmp_path / "evaluation", overrides=settings)
    record = json.loads((tmp_path / "evaluation" / "run.json").read_text("utf-8"))
    single = json.loads((tiny_run / "run.json").read_text("utf-8"))
    assert record["seen_in_training"] == 0
    assert record["training"]["seconds"] == pytest.approx(2 * single["seconds"], abs=2e-3)
    cost = {name: record["training"]["network"][name] for name in ("parameters", "flops")}
    assert cost == {name: 2 * single["network"][name] for name in cost}


def test_members_of_different_masks_are_refused(member: MakeMember, tmp_path: Path) -> None:
    members = [member("one"), member("two", seed=3)]
    for folder, mask in zip(members, ("1", "2"), strict=True):
        items = [{"id": "a", "sha256": "x", "label_sha256": mask}]
        write_label_hashes(folder, [*items, {"id": "b", "sha256": "y", "label_sha256": "3"}])
    with pytest.raises(
        InputError, match=r"one and .*two were trained with different .* 1 case: a;"
    ):
        write_ensemble(members, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_label_hashes(members[1], [{"id": "c", "sha256": "z", "label_sha256": None}])
    out = write_ensemble(members, tmp_path / "out")
    assert json.loads((out / "label_hashes.json").read_text("utf-8")) == [
        {"sha256": "x", "label_sha256": "1"},
        {"sha256": "y", "label_sha256": "3"},
        {"sha256": "z", "label_sha256": None},
    ]
    with pytest.raises(InputError, match="different masks of 1 case: a;"):
        write_label_hashes(members[1], [{"id": "a", "sha256": "x", "label_sha256": "4"}])
        write_ensemble([out, members[1]], tmp_path / "more")


def test_what_one_member_knows_is_refused_though_another_knows_nothing(
    tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    second = copy_of(tiny_run, tmp_path)
    (second / "training_images.json").unlink()
    inner = write_ensemble([tiny_run, second], tmp_path / "inner")
    out = write_ensemble([inner, tiny_run], tmp_path / "outer")
    items = {part: load_items(phantom_prepared, part) for part in ("train", "test")}
    for bundle in (inner, out):
        assert read_training_images(bundle) == read_training_images(tiny_run)
        assert [seen_in_training(bundle, items[part]) for part in items] == [None, None]
        refuse_seen_images(bundle, items["test"])
        with pytest.raises(InputError, match="were trained on by a member"):
            refuse_seen_images(bundle, items["train"])


def copy_of(run: Path, folder: Path) -> Path:
    return shutil.copytree(run, folder / "copy")
