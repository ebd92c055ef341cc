"""Training that starts from another run: its weights, what they have seen, and the refusals."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import read_configuration
from busi_monai.bundle.training_images import knows_training_images, own_training_images
from busi_monai.curation import load_datalist
from busi_monai.errors import InputError
from busi_monai.files import file_sha256, read_json
from busi_monai.networks import MultiTaskUNet
from busi_monai.networks.weights import read_weights
from busi_monai.settings import InferenceSettings
from busi_monai.training import (
    InitialRun,
    find_initial_run,
    read_training_images,
    train_bundle,
)

HARDLY = {"device_name": "cpu", "max_epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
"""One epoch that moves no weight by more than rounding."""

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tiny_config: Path) -> Train:
    def run(
        prepared: Path,
        out: Path,
        *,
        resume: bool = False,
        observe: Callable[..., bool] | None = None,
        **overrides: object,
    ) -> Path:
        return train_bundle(
            [prepared],
            out,
            configs=[tiny_config],
            overrides={**HARDLY, **overrides},
            resume=resume,
            observe=observe,
        )

    return run


@pytest.fixture(scope="module")
def first(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run of the phantoms that training starts from; not to be changed."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("initial") / "first")


@pytest.fixture(scope="module")
def second(
    train: Train, first: Path, other_prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on other phantoms that started from it; not to be changed."""
    out = tmp_path_factory.mktemp("initial") / "second"
    return train(other_prepared, out, initial_run=str(first))


def test_weights_and_their_average_start_from_the_initial_runs(first: Path, second: Path) -> None:
    """With two steps there is no update of the average yet: it is what training began with."""
    before = read_weights(first / "models" / "model.pt")
    last = torch.load(second / "models" / "last.pt", weights_only=True)
    assert last["progress"]["iteration"] < 4
    average = read_weights(second / "models" / "model.pt")
    assert average.keys() == before.keys() == last["network"].keys()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in before.items():
        assert torch.equal(average[name], value), name
        if not name.endswith(statistics):
            torch.testing.assert_close(last["network"][name], value, atol=1e-6, rtol=0)


def test_the_run_lists_what_both_were_trained_on(
    second: Path, phantom_prepared: Path, other_prepared: Path
) -> None:
    before, own = (
        {item["sha256"] for item in load_datalist(folder).training}
        for folder in (phantom_prepared, other_prepared)
    )
    assert not before & own
    assert read_training_images(second) == before | own
    assert own_training_images(second) == own
    assert knows_training_images(second)


def test_the_record_tells_where_it_started(first: Path, second: Path, other_prepared: Path) -> None:
    record = read_json(second / "run.json")
    assert record["initial_run"] == {
        "run": str(first),
        "weights_sha256": file_sha256(first / "models" / "model.pt"),
        "training_images": len(read_training_images(first) or ()),
    }
    assert record["datalist_sha256"] == [load_datalist(other_prepared).sha256]
    assert "extra_datalist_sha256" not in record
    assert (Bundle(second).training_record or {})["initial_run"] == record["initial_run"]
    assert read_configuration(second / "configs" / "train.yaml")["initial_run"] == str(first)
    assert "initial_run" not in read_json(first / "run.json")


def test_a_third_run_knows_what_the_first_has_seen(second: Path, phantom_prepared: Path) -> None:
    initial = find_initial_run(second)
    assert initial is not None and initial.images_complete
    seen = {item["sha256"] for item in load_datalist(phantom_prepared).training}
    assert seen < initial.images


def test_it_can_be_resumed_when_the_initial_run_is_gone(
    train: Train, first: Path, other_prepared: Path, tmp_path: Path
) -> None:
    gone = shutil.copytree(first, tmp_path / "gone")
    out = train(other_prepared, tmp_path / "run", initial_run=str(gone))
    kept = (out / "training_images.json").read_bytes()
    record = read_json(out / "run.json")["initial_run"]
    weights = read_weights(out / "models" / "model.pt")
    shutil.rmtree(gone)
    train(other_prepared, out, resume=True)
    assert read_json(out / "run.json")["initial_run"] == record
    assert (out / "training_images.json").read_bytes() == kept
    after = read_weights(out / "models" / "model.pt")
    assert all(torch.equal(value, weights[name]) for name, value in after.items())
    (out / "models" / "last.pt").unlink()  # interrupted before the first epoch's end
    with pytest.raises(InputError, match="no bundle or run"):
        train(other_prepared, out, resume=True)


def test_resuming_loads_nothing_again(
    train: Train, first: Path, other_prepared: Path, tmp_path: Path
) -> None:
    """The weights of the interrupted epoch go on, not the initial run's."""
    start = {"max_epochs": 2, "initial_run": str(first)}
    run = train(other_prepared, tmp_path / "run", observe=lambda *_: True, **start)
    last = torch.load(run / "models" / "last.pt", weights_only=True)
    assert last["progress"]["epoch"] == 1
    last["network"]["seg_head.bias"].fill_(0.75)
    torch.save(last, run / "models" / "last.pt")
    images = read_training_images(run)
    train(other_prepared, run, resume=True, **start)
    again = torch.load(run / "models" / "last.pt", weights_only=True)
    assert again["progress"]["epoch"] == 2
    torch.testing.assert_close(again["network"]["seg_head.bias"], torch.tensor([0.75]))
    assert read_training_images(run) == images
    assert len(read_json(run / "run.json")["sessions"]) == 2


def test_other_initial_weights_are_refused_on_resuming(
    train: Train, first: Path, second: Path, other_prepared: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(first, tmp_path / "other")
    state = read_weights(other / "models" / "model.pt")
    torch.save({name: value + 1 for name, value in state.items()}, other / "models" / "model.pt")
    run = shutil.copytree(second, tmp_path / "run")
    with pytest.raises(InputError, match=rf"was started from {first} .*, now from {other} "):
        train(other_prepared, run, resume=True, initial_run=str(other))
    same = shutil.copytree(first, tmp_path / "moved")
    train(other_prepared, run, resume=True, initial_run=str(same))  # the same weights elsewhere


def test_a_run_from_scratch_is_not_given_initial_weights_on_resuming(
    first: Path, second: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(first, tmp_path / "run")
    with pytest.raises(InputError, match=rf"was started from no other run, now from {second}"):
        train_bundle([phantom_prepared], run, resume=True, overrides={"initial_run": str(second)})


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_initial_run_that_saw_what_is_held_out_is_refused(
    part: str, train: Train, first: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    """The same images under other names, divided otherwise."""
    copy = shutil.copytree(phantom_prepared, tmp_path / "copy")
    datalist = load_datalist(copy)
    *rest, one, two = datalist.training
    renamed = [{**item, "id": f"renamed {item['id']}"} for item in (one, two)]
    parts = {part: [*getattr(datalist, part), *renamed], "training": rest}
    replace(datalist, **parts).save(copy / "datalist.json")
    count = len(parts[part])
    message = rf"2 of the {count} images of the split {part} .* training images of {first}: renamed"
    with pytest.raises(InputError, match=message):
        train(copy, tmp_path / "run", initial_run=str(first))
    assert not (tmp_path / "run").exists()


def test_the_same_division_is_no_leak(first: Path, phantom_prepared: Path) -> None:
    initial = find_initial_run(first)
    assert initial is not None
    initial.refuse_held_out(phantom_prepared)


def test_an_initial_run_of_other_classes_that_does_not_tell_its_images(
    train: Train,
    first: Path,
    other_prepared: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    silent = shutil.copytree(first, tmp_path / "silent")
    (silent / "training_images.json").unlink()
    classes = {"classes": ["benign", "malignant"]}
    with caplog.at_level(logging.INFO):
        out = train(other_prepared, tmp_path / "run", initial_run=str(silent), **classes)
    assert "left out: class head" in caplog.text
    assert f"{silent} does not tell all images" in caplog.text
    assert not knows_training_images(out)
    assert read_json(out / "run.json")["initial_run"]["training_images"] is None
    lesions = [item for item in load_datalist(other_prepared).training if item["class_label"]]
    assert own_training_images(out) == {item["sha256"] for item in lesions}


def test_as_many_but_other_classes_begin_with_a_fresh_class_head(tmp_path: Path) -> None:
    options = {"encoder_options": {"widths": [4, 8]}, "head_channels": []}
    origin, found, other = (MultiTaskUNet(classes=2, **options) for _ in range(3))
    (tmp_path / "models").mkdir()
    torch.save(origin.state_dict(), tmp_path / "models" / "model.pt")
    InferenceSettings(classes=("normal", "malignant")).save(tmp_path)
    initial = InitialRun(tmp_path, "unused")
    initial.load(found, ["normal", "malignant"])
    initial.load(other, ["benign", "malignant"])
    weights = [network.cls_head.layers[-1].weight for network in (origin, found, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(origin.seg_head.weight, other.seg_head.weight)


def test_other_networks_are_refused_before_a_folder_is_made(
    train: Train, first: Path, other_prepared: Path, tmp_path: Path
) -> None:
    options = {"encoder_options": {"widths": [6, 12]}}
    with pytest.raises(InputError, match=r"model\.pt does not fit .*encoder\.\S+ has shape"):
        train(other_prepared, tmp_path / "run", initial_run=str(first), **options)
    assert not (tmp_path / "run").exists()


def test_encoder_weights_exclude_it(first: Path) -> None:
    with pytest.raises(InputError, match=r"initial_run .* and encoder_weights r18\.pth exclude"):
        find_initial_run(first, encoder_weights="r18.pth")


def test_a_bundle_without_weights_and_no_bundle_at_all(tmp_path: Path) -> None:
    assert find_initial_run(None) is None
    with pytest.raises(InputError, match=r"model\.pt does not exist: an initial_run is"):
        find_initial_run("breast_ultrasound_two_stage")
    with pytest.raises(InputError, match="no bundle or run"):
        find_initial_run(tmp_path / "nowhere")
