from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score

import busi_monai
from busi_monai.cli.main import main
from busi_monai.errors import InputError
from busi_monai.evaluation import evaluate_predictions, group_weights
from busi_monai.experiments.comparison import compare_systems, paired_differences
from busi_monai.experiments.systems import named_path, read_system
from tests.experiments.conftest import WriteSystem, predictions


def compare(*words: object, out: Path) -> Result:
    return CliRunner().invoke(
        main, ["compare", *map(str, words), "--out", str(out), "--resamples", "40"]
    )


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output


def test_the_table_holds_every_figure_of_each_evaluation(
    write_system: WriteSystem, tmp_path: Path
) -> None:
    tables = {"first": predictions(seed=1), "second": predictions(seed=2)}
    folders = [write_system(name, table) for name, table in tables.items()]
    result = compare(*folders, out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "not a medical device" in result.output and "leakfree" in result.output
    written = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("name")
    for name, table in tables.items():
        metrics = evaluate_predictions(table, resamples=40)
        for figure in ("lesion_dice", "normal_clean_rate", "macro_f1", "ece", "hd95_px"):
            for part in ("low", "high", "n"):
                assert written.loc[name, f"{figure}_{part}"] == metrics[figure][part]
            assert written.loc[name, figure] == metrics[figure]["value"]
        f1 = metrics["per_class"]["benign"]["f1"]["value"]
        assert written.loc[name, "per_class.benign.f1"] == f1
        assert written.loc[name, "parameters"] == 1234567
        assert written.loc[name, "flops"] == 8e9
        assert written.loc[name, "image_size"] == "64×96"
        assert written.loc[name, "seconds_per_image"] == 0.25
        assert written.loc[name, ["seed", "epochs"]].tolist() == [7, 12]


def test_python_takes_folders_by_name(write_system: WriteSystem, tmp_path: Path) -> None:
    folders = {name: write_system(name, predictions(seed=k)) for k, name in enumerate("ab")}
    words = [f"{name} net={folder}" for name, folder in folders.items()]
    assert compare(*words, out=tmp_path / "command").exit_code == 0
    named = {f"{name} net": folder for name, folder in folders.items()}
    found = busi_monai.compare(named, tmp_path / "python", resamples=40)
    assert list(found.differences) == ["b net"]
    tables = [tmp_path / way / "comparison.csv" for way in ("command", "python")]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_markdown_html_and_image_stand_alone(write_system: WriteSystem, tmp_path: Path) -> None:
    folders = [write_system(name, predictions(seed=k)) for k, name in enumerate(["a|b", "c<i>"])]
    notes = ["--note", "c<i>=quick & small", "--note", "giant=needs weights"]
    title = ["--title", "Five $ystems", "--markdown", tmp_path / "report.md"]
    result = compare(*folders, *notes, *title, out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "# Five $ystems" in report and ".png" not in report
    markdown = (tmp_path / "out" / "comparison.md").read_text("utf-8")
    assert "# Five $ystems" in markdown and "| giant | –" in markdown
    assert "needs weights" in markdown and "a\\|b" in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        columns = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(columns)) == 1, table
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    assert "c&lt;i&gt;" in page and "<i>" not in page and "quick &amp; small" in page
    assert re.findall(r'(?:src|href)="(.{10})', page) == ["data:image"] and "http" not in page
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        image.load()
        assert np.asarray(image.convert("L")).std() > 5
    run = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert set(run["systems"]) == {"a|b", "c<i>"}


def test_an_even_lead_is_certain_because_resamples_are_paired(write_system: WriteSystem) -> None:
    table = predictions(seed=1)
    better = table.assign(dice=table["dice"] + np.where(table["true_class"] != "normal", 0.1, 0))
    pair = [read_system(n, write_system(n, t)) for n, t in {"a": table, "b": better}.items()]
    found = paired_differences(pair[1], pair[0], resamples=200)["lesion_dice"]
    lesions = int((table["true_class"] != "normal").sum())
    assert found == {"difference": 0.1, "low": 0.1, "high": 0.1, "same_sign": 1.0, "n": lesions}
    none = paired_differences(pair[0], pair[0], resamples=200)["accuracy"]
    assert none["difference"] == none["low"] == none["high"] == 0 and none["same_sign"] is None


def test_differences_are_those_of_repeated_rows(write_system: WriteSystem) -> None:
    tables = [predictions(seed=1), predictions(seed=2)]
    ours, theirs = (read_system(f"s{k}", write_system(f"s{k}", t)) for k, t in enumerate(tables))
    found = paired_differences(ours, theirs, resamples=150, seed=3)
    ids = sorted(tables[0]["id"])
    groups = tables[0].set_index("id").loc[ids, "group"].tolist()
    samples: dict[str, list[float]] = {"accuracy": [], "auc_malignant": [], "lesion_dice": []}
    for counts in group_weights(groups, 150, 3).astype(int):
        drawn = [id for id, count in zip(ids, counts, strict=True) for _ in range(count)]
        a, b = (table.set_index("id").loc[drawn] for table in tables)
        for name, values in samples.items():
            values.append(figure(name, a) - figure(name, b))
    for name, values in samples.items():
        difference = figure(name, tables[0]) - figure(name, tables[1])
        assert found[name]["difference"] == pytest.approx(difference, abs=1e-6)
        interval = np.percentile(values, [2.5, 97.5])
        assert [found[name]["low"], found[name]["high"]] == pytest.approx(interval, abs=1e-6)
        same = np.mean(np.sign(values) == np.sign(difference))
        assert found[name]["same_sign"] == pytest.approx(same, abs=1e-4)


def figure(name: str, table: pd.DataFrame) -> float:
    if name == "accuracy":
        return float(accuracy_score(table["true_class"], table["predicted_class"]))
    if name == "auc_malignant":
        return float(roc_auc_score(table["true_class"] == "malignant", table["p_malignant"]))
    return float(table.loc[table["true_class"] != "normal", "dice"].mean())


def test_systems_of_other_classes_are_held_against_what_both_scored(
    write_system: WriteSystem,
) -> None:
    full, other = predictions(seed=1), predictions(seed=2)
    lesions = other[other["true_class"] != "normal"].drop(columns="p_normal")
    total = lesions["p_benign"] + lesions["p_malignant"]
    binary = lesions.assign(
        p_benign=lesions["p_benign"] / total,
        p_malignant=lesions["p_malignant"] / total,
        predicted_class=np.where(lesions["p_benign"] > total / 2, "benign", "malignant"),
    )
    columns = [name for name in other if name.startswith("p_")]
    masks = other.drop(columns=columns).assign(predicted_class="")
    systems = {"full": full, "binary": binary, "masks": masks}
    found = compare_systems(
        [read_system(name, write_system(name, table)) for name, table in systems.items()],
        resamples=20,
    )
    rows = {row["name"]: row for row in found.systems}
    assert [row["images"] for row in found.systems] == [60, len(lesions), 60]
    assert "accuracy" not in rows["masks"]["figures"]
    assert rows["binary"]["figures"]["normal_clean_rate"]["value"] is None
    to_binary, to_masks = found.differences["binary"], found.differences["masks"]
    assert "accuracy" not in to_binary and "per_class.benign.f1" not in to_binary
    auc = [
        roc_auc_score(
            table["true_class"] == "malignant",
            table["p_malignant"] / (table["p_benign"] + table["p_malignant"]),
        )
        for table in (binary, full[full["true_class"] != "normal"])
    ]
    difference = to_binary["auc_benign_malignant"]["difference"]
    assert difference == pytest.approx(auc[0] - auc[1], abs=1e-6)
    assert to_binary["all_dice"]["n"] == len(lesions) and to_masks["all_dice"]["n"] == 60
    assert "normal_clean_rate" in to_masks and not any("auc" in name for name in to_masks)


def test_other_datalists_and_images_need_common(write_system: WriteSystem, tmp_path: Path) -> None:
    table = predictions(seed=1)
    whole, half = write_system("whole", table), write_system("half", predictions(seed=2)[:30])
    refused = compare(whole, half, out=tmp_path / "out")
    assert_refused(refused, "half lacks case (30)", "and 25 more", "--common")
    changed = {"datalist_sha256": ["cd" * 32], "seen_in_training": 2}
    other = write_system("other", predictions(seed=2), **changed)
    assert_refused(compare(whole, other, out=tmp_path / "out"), "abababab", "cdcdcd", "--common")
    assert not (tmp_path / "out").exists()
    result = compare(whole, half, other, "--common", out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Images: 30 in" in result.output and "in common only" in result.output
    report = (tmp_path / "out" / "comparison.md").read_text("utf-8")
    assert "training (of each whole evaluation): 0 of 60" in report
    assert "trained on (of each whole evaluation): whole: –; half: –; other: 2\n" in report
    written = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("name")
    assert written["images"].tolist() == [30, 30, 30]
    lesions = table[:30].query("true_class != 'normal'")
    assert written.loc["whole", "lesion_dice"] == pytest.approx(lesions["dice"].mean(), abs=1e-6)


def test_one_id_for_two_images_is_never_compared(write_system: WriteSystem, tmp_path: Path) -> None:
    table = predictions(seed=1)
    ours = write_system("ours", table)
    changed = table.assign(true_lesion_pixels=table["true_lesion_pixels"] + 1)
    theirs = write_system("theirs", changed, datalist_sha256=["cd" * 32])
    result = compare(ours, theirs, "--common", out=tmp_path / "out")
    assert_refused(result, "is another image", "different datasets")


def test_evaluations_on_different_masks_are_never_set_side_by_side(
    write_system: WriteSystem, tmp_path: Path
) -> None:
    masks = np.array([f"{index:064x}" for index in range(60)])
    ours = write_system("ours", predictions(seed=1).assign(label_sha256=masks))
    corrected = np.where(np.arange(60) < 7, "f" * 64, masks)
    theirs = write_system("theirs", predictions(seed=2).assign(label_sha256=corrected))
    told = "against different masks of 7 cases: case (0), case (1), case (2), case (3), case (4), …"
    for more in ([], ["--common"]):
        assert_refused(compare(ours, theirs, *more, out=tmp_path / "out"), told)


def test_an_evaluation_of_an_earlier_version_is_compared_and_noted_once(
    write_system: WriteSystem, caplog: pytest.LogCaptureFixture
) -> None:
    tables = {name: predictions(seed=seed) for seed, name in enumerate(("ours", "same", "earlier"))}
    for name in ("ours", "same"):
        tables[name]["label_sha256"] = [f"{index:064x}" for index in range(60)]
    folders = {name: write_system(name, table) for name, table in tables.items()}
    written = folders["earlier"] / "evaluation" / "metrics.json"
    written.write_text(written.read_text("utf-8").replace('"split"', '"part"'), "utf-8")
    systems = [read_system(name, folder) for name, folder in folders.items()]
    for _ in range(2):
        assert compare_systems(systems, resamples=5).header["split"] == "reported"
    noted = [m for m in caplog.messages if "has hashes of its images only" in m]
    assert len(noted) == 1 and str(folders["earlier"]) in noted[0]


def test_failed_images_are_told(write_system: WriteSystem, tmp_path: Path) -> None:
    table = predictions(seed=1)
    failing = table.copy()
    failing.loc[0, "error"] = "truncated"
    folders = write_system("whole", table), write_system("failing", failing)
    result = compare(*folders, out=tmp_path / "out")
    assert_refused(result, "failing lacks case (0), 1 of which failed")


def test_names(write_system: WriteSystem, tmp_path: Path) -> None:
    run = write_system("run=1", predictions())
    assert named_path(str(run)) == ("run=1", run)
    assert named_path(str(run / "evaluation"))[0] == "run=1"
    assert named_path(f"mine={run}") == ("mine", run)
    assert_refused(compare(run, run, out=tmp_path / "out"), "several systems are called run=1")
    assert_refused(compare(run, "--reference", "x", out=tmp_path / "out"), "'x'", "run=1")
    assert_refused(compare(run, "--note", "x", out=tmp_path / "out"), "expected NAME=TEXT")
    assert_refused(compare(tmp_path / "no", out=tmp_path / "out"), "is no folder")
    assert_refused(
        compare(tmp_path, out=tmp_path / "out"), "holds no evaluation", "busi-monai eval"
    )
    result = compare(f"a={run}", f"b={run}", "--reference", "b", "-q", out=tmp_path / "out")
    assert result.exit_code == 0 and not result.output
    again = compare(run, out=tmp_path / "out")
    assert_refused(again, "not empty", "--overwrite")


def test_resamples_must_be_positive(write_system: WriteSystem) -> None:
    system = read_system("a", write_system("a", predictions()))
    with pytest.raises(InputError, match="at least 1"):
        compare_systems([system], resamples=0)
