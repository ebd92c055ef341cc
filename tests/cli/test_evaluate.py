from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.curation import PrepareOptions, prepare_dataset
from busi_monai.phantoms import write_phantom_dataset

Evaluate = Callable[..., Result]


@pytest.fixture
def evaluate(tiny_run: Path, phantom_prepared: Path, tmp_path: Path) -> Evaluate:
    """Run the command on the phantoms; ``run`` and ``prepared`` may be given."""

    def call(*more: str, run: Path = tiny_run, prepared: Path = phantom_prepared) -> Result:
        words = ["evaluate", str(run), str(prepared), "--out", str(tmp_path / "out")]
        device = [] if "--device" in more else ["--device", "cpu"]
        return CliRunner().invoke(main, [*words, *device, "--resamples", "20", *more])

    return call


@pytest.fixture
def copied_run(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "copy of the run")


def assert_refused(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.output
    assert "Traceback" not in result.output


def test_figures_and_predictions_lie_beside_each_other(evaluate: Evaluate, tmp_path: Path) -> None:
    result = evaluate()
    assert result.exit_code == 0, result.output
    assert "lesion_dice" in result.output and "not a medical device" in result.output
    assert "0 of 3 evaluation images have a near-duplicate in training." in result.output
    assert "All figures, those by class too, are in" in result.output
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    table = pd.read_csv(out / "predictions.csv")
    lesions = table[table["true_class"] != "normal"]
    assert metrics["lesion_dice"]["value"] == pytest.approx(lesions["dice"].mean(), abs=1e-5)
    assert metrics["lesion_dice"]["n"] == len(lesions)
    right = (table["true_class"] == table["predicted_class"]).mean()
    assert metrics["accuracy"]["value"] == pytest.approx(right)
    assert metrics["split"] == "reported" and metrics["protocol"] == ["leakfree"]
    assert len(list((out / "masks").iterdir())) == len(table)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["device"] == {"name": "cpu", "reason": "asked for"}
    assert record["precision"] == {"name": "fp32", "reason": "asked for"}
    assert record["leaks"] == metrics["leaks"] == {"count": 0, "evaluation_images": len(table)}


def test_radiologists_categories_stand_beside_the_network(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    write_phantom_dataset(tmp_path / "bra", layout="bus_bra", cases=12, seed=3, size=(64, 80))
    prepare_dataset(tmp_path / "bra", tmp_path / "others", PrepareOptions(protocol="external"))
    result = evaluate("--no-overlays", prepared=tmp_path / "others")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["birads"].notna().all()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["birads"]["auc"]["n"] == len(table)
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "BI-RADS: AUC for malignancy" in report


def test_json_is_what_was_written(evaluate: Evaluate, tmp_path: Path) -> None:
    result = evaluate("--json", "--split", "train", "--no-overlays", "--batch-size", "4")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout[result.stdout.index("{") :]) == metrics
    assert metrics["split"] == "train"
    assert not (tmp_path / "out" / "overlays").exists()


def test_several_datasets_are_measured_together(
    evaluate: Evaluate, phantom_prepared: Path, tmp_path: Path
) -> None:
    shutil.copytree(phantom_prepared, tmp_path / "second")
    assert evaluate(str(tmp_path / "second"), "-q").exit_code == 0
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["id"].str.startswith("second ").sum() * 2 == len(table)


def test_a_kept_table_is_measured_on_its_dataset(
    evaluate: Evaluate, phantom_prepared: Path, tmp_path: Path
) -> None:
    assert evaluate("-q").exit_code == 0
    kept = ["evaluate", "--predictions", str(tmp_path / "out" / "predictions.csv")]
    kept += ["--resamples", "20", "--out", str(tmp_path / "again")]
    result = CliRunner().invoke(main, [*kept, "--dataset", str(phantom_prepared)])
    assert result.exit_code == 0, result.output
    before, again = (
        json.loads((tmp_path / name / "metrics.json").read_text("utf-8"))
        for name in ("out", "again")
    )
    for name in ("lesion_dice", "hd95_px", "accuracy", "auc_malignant", "ece"):
        assert again[name]["value"] == pytest.approx(before[name]["value"], abs=1e-5)
    assert again["datalist_sha256"] == before["datalist_sha256"]


@pytest.mark.parametrize("flag", [[], ["--consistency"]])
def test_the_rule_of_a_table_can_be_set_as_that_of_a_run(
    evaluate: Evaluate, phantom_prepared: Path, tmp_path: Path, flag: list[str]
) -> None:
    rule = ["--set", "consistency={normal_threshold: 0.1}", "-q"]
    assert evaluate(*rule, *flag).exit_code == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["consistency"]
    assert record["enabled"] and record["normal_threshold"] == 0.1
    (tmp_path / "out").rename(tmp_path / "of the run")
    assert evaluate("-q").exit_code == 0
    kept = ["evaluate", "--predictions", str(tmp_path / "out"), "--resamples", "20"]
    kept += ["--dataset", str(phantom_prepared), "--out", str(tmp_path / "of the table")]
    table = tmp_path / "out" / "masks"
    table.rename(tmp_path / "masks")  # else they are measured anew, before the rule
    assert CliRunner().invoke(main, [*kept, *rule, *flag]).exit_code == 0
    runs, tables, plain = (
        pd.read_csv(tmp_path / name / "predictions.csv")
        for name in ("of the run", "of the table", "out")
    )
    columns = ["predicted_class", "lesion_pixels", "dice", "iou", "pixel_accuracy", "hd95_px"]
    pd.testing.assert_frame_equal(tables[columns], runs[columns], check_dtype=False, atol=2e-6)
    assert not tables[columns].equals(plain[columns])


def test_a_flag_and_a_setting_that_contradict_each_other_are_refused(evaluate: Evaluate) -> None:
    for flag, setting in (
        ("--no-consistency", "{enabled: true}"),
        ("--consistency", "false"),
        ("--consistency", "{enabled: false}"),
    ):
        refused = evaluate(flag, "--set", f"consistency={setting}")
        assert_refused(refused, f"{flag} contradicts --set consistency")


def test_the_options_of_a_table_and_of_a_run_are_kept_apart(
    evaluate: Evaluate, phantom_prepared: Path, tmp_path: Path
) -> None:
    table = ["--predictions", str(tmp_path / "table.csv")]
    assert_refused(evaluate(*table), "stands in place of RUN and PREPARED")
    assert_refused(evaluate("--dataset", str(phantom_prepared)), "belongs to --predictions")
    alone = ["evaluate", *table, "--out", str(tmp_path / "out")]
    off = "consistency={enabled: false, normal_threshold: 0.3}"
    for words in (["--no-consistency"], ["--set", "consistency=false"], ["--set", off]):
        assert_refused(CliRunner().invoke(main, [*alone, *words]), "cannot be taken out of a table")
    assert_refused(CliRunner().invoke(main, [*alone, "--set", "batch_size=3"]), "only consistency")
    for rule, words in {
        "{smallest: 1}": "consistency has no smallest",
        "3": "consistency must be true, false, or a mapping",
        "{normal_threshold: 2}": "normal_threshold must be a number in [0, 1], got 2",
    }.items():
        for refused in (
            CliRunner().invoke(main, [*alone, "--set", f"consistency={rule}"]),
            evaluate("--set", f"consistency={rule}"),
        ):
            assert_refused(refused, words)
            assert "settings.json" not in refused.output
    part = evaluate("--set", "consistency#normal_threshold=0.3")
    assert_refused(part, "set it as a whole: consistency={normal_threshold: …}")
    assert_refused(CliRunner().invoke(main, alone), "table.csv")


def test_what_is_not_there_is_named(evaluate: Evaluate, tmp_path: Path) -> None:
    assert_refused(evaluate(run=tmp_path / "nothing"), "no bundle or run")
    (tmp_path / "empty").mkdir()
    assert_refused(evaluate(run=tmp_path / "empty"), "is not a bundle")
    assert_refused(evaluate(prepared=tmp_path / "empty"), "datalist.json does not exist")
    assert_refused(evaluate("--fold", "1"), "has no folds")
    assert_refused(evaluate("--split", "all"), "--split")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_no_silent_fall_back(evaluate: Evaluate) -> None:
    assert_refused(evaluate("--device", "cuda"), "sees no CUDA device")


def test_an_empty_split_is_named(evaluate: Evaluate, phantom_busi: Path, tmp_path: Path) -> None:
    from busi_monai.curation import prepare_dataset
    from busi_monai.curation.protocols import PrepareOptions

    prepare_dataset(phantom_busi, tmp_path / "external", PrepareOptions(protocol="external"))
    external = tmp_path / "external"
    assert_refused(evaluate("--split", "train", prepared=external), "the split train is empty")
    assert evaluate("-q", prepared=external).exit_code == 0
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 24


def test_a_file_that_is_gone_is_named(
    evaluate: Evaluate, phantom_prepared: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(phantom_prepared, tmp_path / "prepared")
    content = json.loads((copy / "datalist.json").read_text(encoding="utf-8"))
    (copy / content["test"][0]["image"]).unlink()
    assert_refused(evaluate(prepared=copy), "is gone", "prepare the dataset again")
    assert not (tmp_path / "out").exists()


def test_an_earlier_result_is_kept(evaluate: Evaluate, copied_run: Path, tmp_path: Path) -> None:
    assert evaluate("-q", run=copied_run).exit_code == 0
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    assert_refused(evaluate(run=copied_run), "not empty", "--overwrite")
    (copied_run / "models" / "model.pt").write_bytes(b"damaged")
    assert evaluate("--overwrite", run=copied_run).exit_code == 1
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before
    assert not list(tmp_path.glob(".out-*"))


def test_weights_that_do_not_fit_are_refused(
    evaluate: Evaluate, copied_run: Path, tmp_path: Path
) -> None:
    weights = copied_run / "models" / "model.pt"
    torch.save({"weight": torch.zeros(2)}, weights)
    assert_refused(evaluate(run=copied_run), "another architecture", code=1)
    torch.save({"weight": Path("x")}, weights)
    assert_refused(evaluate(run=copied_run), "refused", "pickled", code=1)
    weights.unlink()
    assert_refused(evaluate(run=copied_run), "does not exist", "busi-monai train", code=1)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_keeps_the_earlier_result(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate("-q").exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.csv")}

    def no_space(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    assert_refused(evaluate("--overwrite"), "No space left on device", code=1)
    monkeypatch.undo()
    gc.collect()  # what the end of a process does to an unfinished folder
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.csv")} == before
    assert not list(tmp_path.glob(".out-*"))
