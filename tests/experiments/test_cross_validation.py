from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock

from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.cases import CLASSES
from busi_monai.cli.main import main
from busi_monai.curation import load_datalist
from busi_monai.errors import InputError
from busi_monai.experiments.cross_validation import finished_folds
from busi_monai.experiments.plans import (
    effective_configuration,
    training_settings,
)
from busi_monai.experiments.processes import run_in_turn
from busi_monai.files import file_sha256, read_json, write_json
from busi_monai.metrics import fit_temperature, rescale_probabilities
from busi_monai.training import read_training_images, train_bundle

CrossValidate = Callable[..., Result]


@pytest.fixture(scope="module")
def cross_validate(folds: Path, tiny_config: Path) -> CrossValidate:
    def call(*more: object, out: Path, prepared: Path = folds) -> Result:
        words = ["cross-validate", prepared, "--out", out, "--config", tiny_config]
        words += ["--device", "cpu", "--epochs", "1", "--resamples", "20", *more]
        return CliRunner().invoke(main, list(map(str, words)))

    return call


@pytest.fixture(scope="module")
def finished(
    cross_validate: CrossValidate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A cross-validation of one epoch in all folds; not to be changed."""
    out = tmp_path_factory.mktemp("cross") / "validation"
    result = cross_validate("-q", out=out)
    assert result.exit_code == 0, result.output
    yield out


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of change and hash of every file."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output


def test_every_image_is_predicted_once_by_a_network_that_never_saw_it(
    finished: Path, folds: Path
) -> None:
    table = pd.read_csv(finished / "predictions.csv")
    items = {item["id"]: item for item in load_datalist(folds).training}
    assert sorted(table["id"]) == sorted(items)
    assert [items[id]["fold"] for id in table["id"]] == table["fold"].tolist()
    for id, fold in zip(table["id"], table["fold"], strict=True):
        seen = read_training_images(finished / "folds" / f"fold_{fold}")
        assert seen and items[id]["sha256"] not in seen


def test_pooled_probabilities_are_calibrated_on_the_other_folds(finished: Path) -> None:
    pooled = pd.read_csv(finished / "predictions.csv").set_index("id")
    columns = ["p_normal", "p_benign", "p_malignant"]
    raw = pd.concat(
        [
            pd.read_csv(finished / "folds" / f"fold_{fold}" / "evaluation" / "predictions.csv")
            for fold in range(3)
        ]
    ).set_index("id")
    known = json.loads((finished / "metrics.json").read_text("utf-8"))["calibration"]
    assert known["fitted_on"] == "the other folds" and set(known["temperatures"]) == set("012")
    for fold in range(3):
        members, others = pooled.index[pooled["fold"] == fold], pooled.index[pooled["fold"] != fold]
        true = [CLASSES.index(name) for name in raw.loc[others, "true_class"]]
        temperature = fit_temperature(true, raw.loc[others, columns])
        assert known["temperatures"][str(fold)] == pytest.approx(temperature, rel=1e-3)
        expected = rescale_probabilities(raw.loc[members, columns].to_numpy(), temperature)
        assert pooled.loc[members, columns].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert (pooled["predicted_class"] == raw.loc[pooled.index, "predicted_class"]).all()


def test_pooled_figures_are_those_of_all_rows(finished: Path) -> None:
    table = pd.read_csv(finished / "predictions.csv")
    metrics = json.loads((finished / "metrics.json").read_text("utf-8"))
    lesions = table[table["true_class"] != "normal"]
    assert metrics["lesion_dice"]["value"] == pytest.approx(lesions["dice"].mean(), abs=1e-5)
    assert metrics["lesion_dice"]["n"] == len(lesions)
    assert metrics["accuracy"]["n"] == metrics["images"] == len(table) == 24
    right = (table["true_class"] == table["predicted_class"]).groupby(table["fold"]).mean()
    by_fold = {found["fold"]: found["accuracy"]["value"] for found in metrics["folds"]}
    assert by_fold == pytest.approx(right.to_dict(), abs=1e-6)
    assert metrics["leaks"] == {"count": 0, "evaluation_images": 24}
    assert metrics["seen_in_training"] == 0 and metrics["fold_ids"] == [0, 1, 2]
    assert metrics["bootstrap"]["resamples"] == 20
    report = (finished / "report.md").read_text("utf-8")
    assert "## By fold" in report and "| images | 8 | 8 | 8 | |" in report
    record = json.loads((finished / "run.json").read_text("utf-8"))
    seconds = [
        json.loads((finished / f"folds/fold_{k}/run.json").read_text("utf-8"))["seconds"]
        for k in range(3)
    ]
    assert record["training"]["seconds"] == pytest.approx(sum(seconds), abs=1e-3)
    assert record["training"]["epochs"] == 1 and record["missing_folds"] == []
    assert record["training"]["network"]["image_size"] == [32, 32]


def test_finished_folds_are_never_repeated(finished: Path, cross_validate: CrossValidate) -> None:
    before = state(finished / "folds")
    result = cross_validate(out=finished)
    assert result.exit_code == 0, result.output
    assert "lesion_dice" in result.output and "Pooled over the folds 0, 1, 2." in result.output
    assert state(finished / "folds") == before


def test_an_interrupted_fold_goes_on_with_the_same_settings(
    finished: Path, cross_validate: CrossValidate, tmp_path: Path
) -> None:
    """Here its record alone is missing, so that nothing is left to train."""
    out = shutil.copytree(finished, tmp_path / "copy")
    run = out / "folds" / "fold_1"
    shutil.rmtree(run / "evaluation")
    (run / "run.json").unlink()
    result = cross_validate("-q", "--set", "num_workers=1", out=out)
    assert result.exit_code == 0, result.output
    first, second = read_json(run / "run.json")["sessions"]
    assert first["interrupted"] and second["settings"]["num_workers"] == 1
    assert (run / "evaluation" / "metrics.json").is_file()


def test_images_seen_in_training_are_told(
    finished: Path, cross_validate: CrossValidate, tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    path = out / "folds" / "fold_1" / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**metrics, "seen_in_training": 3}), "utf-8")
    result = cross_validate(out=out)
    assert "3 of 24 images are among those that the network was trained on" in " ".join(
        result.output.split()
    )


def test_the_folds_make_an_ensemble_that_refuses_their_images(
    finished: Path, cross_validate: CrossValidate, folds: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    result = cross_validate("--ensemble", out=out)
    assert result.exit_code == 0, result.output
    union = [read_training_images(out / "folds" / f"fold_{k}") or set() for k in range(3)]
    assert read_training_images(out / "ensemble") == set().union(*union)
    before = state(out / "ensemble")
    assert cross_validate("--ensemble", out=out).exit_code == 0
    assert state(out / "ensemble") == before
    words = ["evaluate", out / "ensemble", folds, "--fold", 0, "--out", tmp_path / "evaluation"]
    refused = CliRunner().invoke(main, [*map(str, words), "--device", "cpu"])
    assert_refused(refused, "were trained on by a member of the ensemble")


def test_a_bundle_spelt_otherwise_is_the_same(
    finished: Path, cross_validate: CrossValidate
) -> None:
    result = cross_validate("-q", "--model", find_bundle(), out=finished)
    assert result.exit_code == 0, result.output
    for name in ("cross_validation.json", "run.json"):
        assert json.loads((finished / name).read_text("utf-8"))["bundle"] == DEFAULT_BUNDLE


def test_two_commands_never_train_one_fold(
    finished: Path, cross_validate: CrossValidate, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copyfile(finished / "cross_validation.json", out / "cross_validation.json")
    plan = (out / "cross_validation.json").read_bytes()
    with FileLock(out / ".locks" / "fold_2.lock"):
        busy = cross_validate("--folds", "2", out=out)
        assert_refused(busy, "fold 2", "is being trained by another process")
        assert_refused(cross_validate("--seed", "3", out=out), "configuration#seed")
        assert (out / "cross_validation.json").read_bytes() == plan
        assert not (out / "folds").exists()


def test_other_settings_are_refused(
    finished: Path, cross_validate: CrossValidate, folds: Path, tmp_path: Path
) -> None:
    before = state(finished)
    other = cross_validate("--set", "learning_rate=0.5", "--seed", "3", out=finished)
    assert_refused(other, "configuration#learning_rate was 0.01, now 0.5", "configuration#seed")
    copy = shutil.copytree(folds, tmp_path / "other")
    content = load_datalist(copy)
    content.training[0]["meta"]["device"] = "another"
    content.save(copy / "datalist.json")
    assert_refused(cross_validate(out=finished, prepared=copy), "datalist_sha256 was")
    assert state(finished) == before


def test_other_masks_are_refused_and_named(
    finished: Path, cross_validate: CrossValidate, folds: Path, corrected_folds: Path
) -> None:
    before = state(finished)
    other = cross_validate(out=finished, prepared=corrected_folds)
    assert_refused(other, "begun with other masks of 16 cases: benign (1), ", "other folder")
    assert state(finished) == before
    labels = [load_datalist(folds).labels_sha256]
    for name in ("cross_validation.json", "metrics.json", "folds/fold_1/run.json"):
        assert read_json(finished / name)["labels_sha256"] == labels


def test_folds_of_an_earlier_version_go_on_and_claim_no_masks(
    finished: Path, cross_validate: CrossValidate, corrected_folds: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "label_hashes.json").unlink()
    for path in ("cross_validation.json", "folds/fold_0/evaluation/metrics.json"):
        content = read_json(out / path)
        del content["labels_sha256"]
        write_json(out / path, content)
    result = cross_validate(out=out, prepared=corrected_folds)
    assert result.exit_code == 0, result.output
    assert result.output.count(f"{out} has hashes of its images only, none of its masks") == 1
    assert read_json(out / "metrics.json")["labels_sha256"] is None


def test_more_data_and_earlier_weights_are_part_of_the_plan(
    cross_validate: CrossValidate,
    folds: Path,
    other_prepared: Path,
    tiny_config: Path,
    tmp_path: Path,
) -> None:
    settings = {"device_name": "cpu", "max_epochs": 1}
    first = train_bundle(
        [other_prepared], tmp_path / "first", configs=[tiny_config], overrides=settings
    )
    weights = file_sha256(first / "models" / "model.pt")
    out = tmp_path / "out"
    more = ["-q", "--folds", "1", "--set", f"initial_run={first}", "--extra"]
    result = cross_validate(*more, other_prepared, out=out)
    assert result.exit_code == 0, result.output
    own, extra = load_datalist(folds), load_datalist(other_prepared)
    plan = read_json(out / "cross_validation.json")
    assert plan["datalist_sha256"] == [own.sha256, extra.sha256]
    for content in (plan, read_json(out / "run.json")):
        assert content["extra_datalist_sha256"] == [extra.sha256]
        assert content["initial_weights_sha256"] == [weights]
    run = out / "folds" / "fold_1"
    record = read_json(run / "run.json")
    assert record["extra_datalist_sha256"] == [extra.sha256]
    assert record["initial_run"]["weights_sha256"] == weights
    seen = read_training_images(run) or set()
    assert {item["sha256"] for item in extra.training} < seen
    assert not {item["sha256"] for item in own.training if item["fold"] == 1} & seen
    scored = pd.read_csv(out / "predictions.csv")["id"]
    assert sorted(scored) == sorted(item["id"] for item in own.training if item["fold"] == 1)

    before = state(out / "folds")
    moved = shutil.copytree(other_prepared, tmp_path / "moved")
    assert cross_validate(*more, moved, out=out).exit_code == 0
    assert_refused(cross_validate(*more[:-1], out=out), "extra_datalist_sha256 was")
    state_of_first = torch.load(first / "models" / "model.pt", weights_only=True)
    torch.save({name: value * 2 for name, value in state_of_first.items()}, tmp_path / "other.pt")
    shutil.copyfile(tmp_path / "other.pt", first / "models" / "model.pt")
    again = cross_validate(*more, other_prepared, out=out)
    assert_refused(again, "initial_weights_sha256 was")
    assert state(out / "folds") == before


@pytest.mark.parametrize("kind", ["extra", "initial"])
def test_what_has_seen_a_scored_image_is_refused_before_a_fold_is_trained(
    kind: str,
    cross_validate: CrossValidate,
    phantom_prepared: Path,
    tiny_run: Path,
    tmp_path: Path,
) -> None:
    """The same phantoms, prepared without folds: all but six of them for training."""
    words = {
        "extra": ["--extra", phantom_prepared],
        "initial": ["--set", f"initial_run={tiny_run}"],
    }
    told = {"extra": "images of the extra dataset", "initial": "the training images of"}
    result = cross_validate(*words[kind], out=tmp_path / "out")
    assert_refused(result, "of the split", told[kind], "must never be trained on")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds", "3"], ["folds [3]", "0 to 2"]),
        (["--folds", "a"], ["expected numbers with commas"]),
        (["--folds", "1", "--ensemble"], ["at least two folds", "fold 1 is the only one"]),
        (["--set", "fold=1"], ["--folds"]),
        (["--set", "learning_rat=1"], ["unknown configuration key"]),
        (["--set", "image_size=[33, 32]"], ["divisible by 2"]),
        (["--config", "huge"], ["no configuration 'huge'"]),
        (["--jobs", "0"], ["--jobs"]),
    ],
)
def test_wrong_usage_leaves_nothing(
    cross_validate: CrossValidate, tmp_path: Path, words: list[str], told: list[str]
) -> None:
    assert_refused(cross_validate(*words, out=tmp_path / "out"), *told)
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_folds_and_a_strange_folder_are_refused(
    cross_validate: CrossValidate, phantom_prepared: Path, tmp_path: Path
) -> None:
    result = cross_validate(out=tmp_path / "out", prepared=phantom_prepared)
    assert_refused(result, "has no folds", "--folds 5")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert_refused(cross_validate(out=tmp_path / "mine"), "is not empty")
    assert (tmp_path / "mine" / "thesis.txt").read_text("utf-8") == "years of work"


def test_a_fold_reports_on_the_datasets_that_have_it(
    cross_validate: CrossValidate, folds: Path, tmp_path: Path
) -> None:
    fewer = shutil.copytree(folds, tmp_path / "fewer")
    datalist = load_datalist(folds)
    kept = [item for item in datalist.training if item["fold"] < 2]
    replace(datalist, training=kept).save(fewer / "datalist.json")
    result = cross_validate(fewer, "--folds", "2", out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    reported = [item["id"] for item in datalist.training if item["fold"] == 2]
    assert sorted(table["id"]) == sorted(reported)


def test_some_folds_now_and_the_rest_later(
    cross_validate: CrossValidate, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = cross_validate("--folds", "1", out=out)
    assert result.exit_code == 0, result.output
    assert "Pooled over the folds 1; 0, 2 are still to do." in result.output
    assert set(pd.read_csv(out / "predictions.csv")["fold"]) == {1}
    assert "2 of 3 folds are not finished" in (out / "report.md").read_text("utf-8")
    one, all_three = (
        torch.load(folder / "folds/fold_1/models/model.pt", weights_only=True)
        for folder in (out, finished)
    )
    assert all(torch.equal(one[name], all_three[name]) for name in all_three)


def test_a_comparison_takes_a_cross_validation(finished: Path, tmp_path: Path) -> None:
    words = ["compare", f"a={finished}", f"b={finished}", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*words, "--resamples", "10"])
    assert result.exit_code == 0, result.output
    assert "Folds, pooled: 0, 1, 2" in result.output
    written = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert written["parameters"].tolist() == [written["parameters"][0]] * 2
    assert written["parameters"].notna().all() and written["training_seconds"].gt(0).all()


def test_a_fold_that_fails_does_not_stop_the_others() -> None:
    called = []

    def task(name: str) -> None:
        called.append(name)
        if name != "b":
            raise InputError(f"{name} is wrong")

    with pytest.raises(InputError, match="a is wrong"):
        run_in_turn(task, {name: (name,) for name in "abc"})
    assert called == ["a", "b", "c"]

    def interrupted(name: str) -> None:
        called.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_turn(interrupted, {name: (name,) for name in "de"})
    assert called[3:] == ["d"]


def test_a_copy_beside_the_folds_is_not_one_of_them(tmp_path: Path) -> None:
    for name in ("fold_10", "fold_2", "fold_2 (copy)", "fold_"):
        (tmp_path / "folds" / name / "evaluation").mkdir(parents=True)
        (tmp_path / "folds" / name / "evaluation" / "metrics.json").write_text("{}", "utf-8")
    expected = [(number, tmp_path / "folds" / f"fold_{number}") for number in (2, 10)]
    assert list(finished_folds(tmp_path).items()) == expected


def test_a_fold_whose_evaluation_is_not_whole_is_not_finished(tmp_path: Path) -> None:
    evaluation = tmp_path / "folds" / "fold_1" / "evaluation"
    evaluation.mkdir(parents=True)
    for state, finished in (("incomplete", []), ("complete", [1])):
        (evaluation / "metrics.json").write_text("{}", "utf-8")
        (evaluation / "run.json").write_text(json.dumps({"state": state}), "utf-8")
        assert list(finished_folds(tmp_path)) == finished


def test_the_plan_of_a_staged_bundle_holds_what_was_given(tmp_path: Path) -> None:
    bundle = tmp_path / "staged"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "inference.yaml").write_text("{}", "utf-8")
    (bundle / "configs" / "train_first.yaml").write_text("max_epochs: 3\n", "utf-8")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("first: {seed: 1}\n", "utf-8")
    given = {"first#learning_rate": 0.1, "device_name": "cpu", "fold": None}
    assert effective_configuration(bundle, [overlay], given) == {
        "train_first": {"max_epochs": 3},
        "overlays": [{"first": {"seed": 1}}],
        "overrides": {"first#learning_rate": 0.1, "fold": None},
    }


def test_every_stage_is_told_its_settings(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("initial_run: a\nsegmentation: {initial_run: b}\n", "utf-8")
    given = {"extra_dataset_dir": ["c"], "classification::pooling": "attention"}
    bundle = "breast_ultrasound_two_stage"
    masks, classes = training_settings(bundle, [overlay], given)
    assert masks["initial_run"] == "b" and classes["initial_run"] == "a"
    assert masks["extra_dataset_dir"] == classes["extra_dataset_dir"] == ["c"]
    assert masks["pooling"] == "average" and classes["pooling"] == "attention"
    assert masks["cls_weight"] == classes["seg_weight"] == 0.0
    (alone,) = training_settings(DEFAULT_BUNDLE, [], given)
    assert alone["extra_dataset_dir"] == ["c"] and alone["initial_run"] is None


def in_a_process(words: list[object]) -> subprocess.Popen[str]:
    code = "from busi_monai.cli.main import main; main(prog_name='busi-monai')"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_in_the_second_fold_it_goes_on_there(
    folds: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["cross-validate", folds, "--out", out, "--config", tiny_config, "--device", "cpu"]
    words += ["--epochs", "20", "--resamples", "20", "-q", "--set", "lr_schedule=constant"]
    words += ["--patience", "20"]
    killed = in_a_process(words)
    wait_for((out / "folds/fold_1/models/last.pt").is_file, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "folds/fold_1/run.json").exists()
    first = state(out / "folds/fold_0")
    reached = len(pd.read_csv(out / "folds/fold_1/history.csv"))
    whole = tmp_path / "undisturbed"
    for folder in (out, whole):
        words[3] = folder
        process = in_a_process(words)
        _, messages = process.communicate(timeout=400)
        assert process.returncode == 0, messages
    assert state(out / "folds/fold_0") == first
    sessions = json.loads((out / "folds/fold_1/run.json").read_text("utf-8"))["sessions"]
    assert sessions[0]["interrupted"] and sessions[0]["epochs"] >= min(reached, 1)
    columns = ["id", "fold", "predicted_class", "p_malignant", "dice"]
    tables = [pd.read_csv(folder / "predictions.csv")[columns] for folder in (out, whole)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_workers_end_with_their_parent_and_can_be_resumed(
    cross_validate: CrossValidate, finished: Path, folds: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["cross-validate", folds, "--out", out, "--config", tiny_config, "--device", "cpu"]
    words += ["--epochs", "300", "--resamples", "20", "--jobs", "2", "--folds", "0,1", "-q"]
    words += ["--set", "lr_schedule=constant", "--patience", "300"]
    killed = in_a_process(words)
    lasts = [out / f"folds/fold_{k}/models/last.pt" for k in (0, 1)]
    wait_for(lambda: all(path.is_file() for path in lasts), killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(3)
    before = state(out)
    time.sleep(2)
    assert state(out) == before
    shutil.rmtree(out)
    result = cross_validate("--jobs", "3", out=out)
    assert result.exit_code == 0, result.output
    assert (out / "logs" / "fold_2.log").read_text("utf-8")
    for name in ("predictions.csv", "metrics.json"):
        assert (out / name).is_file()
    ours, theirs = (pd.read_csv(folder / "predictions.csv") for folder in (out, finished))
    assert ours["p_benign"].tolist() == pytest.approx(theirs["p_benign"].tolist(), abs=1e-4)


@pytest.mark.slow
def test_a_fold_that_fails_in_its_process_is_named(
    cross_validate: CrossValidate, folds: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wrong = cross_validate("--jobs", "2", "--set", "encoder=resnet19", out=out)
    assert_refused(wrong, "fold_0", "resnet19")
    assert not out.exists()
