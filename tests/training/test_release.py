from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from busi_monai.errors import InputError
from busi_monai.files import file_sha256, read_json, write_json
from busi_monai.inference import Predictor
from busi_monai.networks.weights import read_weights
from busi_monai.settings import load_settings
from busi_monai.training import read_training_images, release
from busi_monai.training.release import halved, release_weights


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A calibrated run."""
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    settings = load_settings(copy)
    told = {"images": 20, "split": "validation", "same_network": True}
    fitted = replace(settings, temperature=1.7, calibration=told)
    fitted.save(copy)
    return copy


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    """A bundle of the run's configuration, without weights."""
    kept = shutil.ignore_patterns("models", "run.json", "training_images.json", "history*")
    return Path(shutil.copytree(run, tmp_path / "bundle", ignore=kept))


def test_a_released_bundle_predicts_as_the_run(
    run: Path, bundle: Path, phantom_prepared: Path
) -> None:
    release_weights(run, bundle)
    images = sorted((phantom_prepared / "images").glob("*.png"))[:3]
    released, trained = Predictor.load(bundle, "cpu"), Predictor.load(run, "cpu")
    assert released.settings == trained.settings
    for image in images:
        ours, theirs = released.predict(image), trained.predict(image)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=2e-3)
        assert (ours.mask != theirs.mask).mean() < 0.01


def test_kernels_are_stored_in_half_precision(run: Path, bundle: Path) -> None:
    release_weights(run, bundle)
    trained = read_weights(run / "models" / "model.pt")
    stored = read_weights(bundle / "models" / "model.pt")
    kernels = [name for name, value in trained.items() if value.ndim > 1]
    assert kernels
    assert {stored[name].dtype for name in kernels} == {torch.float16}


def test_vectors_keep_their_precision() -> None:
    tiny = torch.tensor([1e-9, 1e6])
    state = {"running_var": tiny, "weight": torch.full((2, 2), 0.1), "count": torch.tensor(7)}
    found = halved(state)
    assert torch.equal(found["running_var"], tiny)
    assert found["weight"].dtype == torch.float16
    assert found["count"].item() == 7


def test_the_record_tells_what_the_weights_come_from(run: Path, bundle: Path) -> None:
    told = release_weights(run, bundle)
    assert told == read_json(bundle / "run.json")
    trained = read_json(run / "run.json")
    for name in ("commit", "seed", "datalist_sha256", "versions", "best"):
        assert told[name] == trained[name], name
    assert told["weights_sha256"] == file_sha256(bundle / "models" / "model.pt")
    assert told["trained_weights_sha256"] == trained["weights_sha256"]
    assert len(told["configuration_sha256"]) == 64
    assert read_training_images(bundle) == read_training_images(run)


def test_a_run_that_is_not_calibrated_is_refused(tiny_run: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="not calibrated; first: busi-monai calibrate"):
        release_weights(tiny_run, bundle)
    assert not (bundle / "models").exists()


@pytest.mark.parametrize("told", [{"split": "test"}, {"same_network": False}])
def test_a_calibration_on_anything_but_its_own_validation_part_is_refused(
    run: Path, bundle: Path, told: dict
) -> None:
    settings = load_settings(run)
    changed = replace(settings, calibration={**settings.calibration, **told})
    changed.save(run)
    with pytest.raises(InputError, match="expected its own on the split validation"):
        release_weights(run, bundle)


def test_weights_that_the_record_does_not_tell_of_are_refused(run: Path, bundle: Path) -> None:
    weights = run / "models" / "model.pt"
    torch.save({name: value + 1 for name, value in read_weights(weights).items()}, weights)
    with pytest.raises(InputError, match=r"is not what .* tells of"):
        release_weights(run, bundle)
    assert not (bundle / "models").exists()


def test_another_input_size_than_the_bundles_is_refused(run: Path, bundle: Path) -> None:
    settings = load_settings(run)
    replace(settings, image_size=(64, 64)).save(run)
    with pytest.raises(InputError, match="states an input of"):
        release_weights(run, bundle)


def test_nothing_is_released_of_a_run_whose_configuration_is_gone(run: Path, bundle: Path) -> None:
    (run / "configs" / "train.yaml").unlink()
    before = (bundle / "settings.json").read_bytes()
    with pytest.raises(InputError, match="does not exist"):
        release_weights(run, bundle)
    assert not (bundle / "models").exists()
    assert (bundle / "settings.json").read_bytes() == before


def test_no_path_of_the_machine_is_released(run: Path, bundle: Path) -> None:
    record = read_json(run / "run.json")
    record["initial_run"] = {"run": "/home/someone/first", "weights_sha256": "0" * 64}
    record["command"] += ["--set", "initial_run=/home/someone/first", "C:\\data\\busi"]
    write_json(run / "run.json", record)
    told = release_weights(run, bundle)
    assert told["command"][-2:] == ["initial_run=first", "busi"]
    assert told["initial_run"]["run"] == "first"
    assert not any(word.startswith("/") for word in told["command"])


def test_a_training_that_has_not_ended_is_refused(run: Path, bundle: Path) -> None:
    (run / "run.json").unlink()
    with pytest.raises(InputError, match="has not ended"):
        release_weights(run, bundle)


def test_a_run_without_its_training_images_is_refused(run: Path, bundle: Path) -> None:
    (run / "training_images.json").unlink()
    with pytest.raises(InputError, match="does not tell what it was trained on"):
        release_weights(run, bundle)


def test_another_network_than_the_bundles_is_refused(run: Path, bundle: Path) -> None:
    path = bundle / "configs" / "inference.yaml"
    path.write_text(path.read_text("utf-8").replace("encoder: unet", "encoder: resnet18"), "utf-8")
    with pytest.raises(InputError, match="encoder is 'unet' in the run, 'resnet18' in the bundle"):
        release_weights(run, bundle)
    assert not (bundle / "models").exists()


def test_too_large_weights_are_refused(
    run: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "LARGEST", 1000)
    with pytest.raises(InputError, match="MB in half precision"):
        release_weights(run, bundle)
    assert not list((bundle / "models").iterdir())
