from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from busi_monai.bundle.configurations import write_configuration
from busi_monai.cases import CLASSES
from busi_monai.curation.datalist import find_split
from busi_monai.evaluation import evaluate_predictions, read_predictions
from busi_monai.files import file_sha256, read_json, write_json

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "result_tables.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with results of its own."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    module = importlib.import_module("result_tables")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def table(seed: int, count: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), count).round(6)
    lesion = np.arange(count) % 3 > 0
    return pd.DataFrame(
        {
            "id": [f"image {index}" for index in range(count)],
            "group": [f"group {index // 2}" for index in range(count)],
            "true_class": [CLASSES[index % 3] for index in range(count)],
            "predicted_class": [CLASSES[index] for index in probabilities.argmax(axis=1)],
            **{f"p_{name}": probabilities[:, k] for k, name in enumerate(CLASSES)},
            "dice": rng.random(count).round(6),
            "iou": rng.random(count).round(6),
            "lesion_pixels": 10,
            "true_lesion_pixels": np.where(lesion, 10, 0),
            "true_lesion_fraction": np.where(lesion, 0.01, 0),
            "error": "",
        }
    )


def evaluation(run: Path, seed: int, fold: int) -> Path:
    """What an evaluation leaves in the folder of the run that it measured."""
    (run / "validated").mkdir(parents=True)
    table(seed).to_csv(run / "validated" / "predictions.csv", index=False)
    write_configuration(run / "configs" / "evaluate.yaml", {"fold": fold})
    return run / "validated"


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]


def test_the_pages_are_up_to_date(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    module = importlib.import_module("result_tables")
    assert module.main(["--check"]) == 0, capsys.readouterr().out


def test_a_variant_is_held_against_the_reference(script: ModuleType, tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "extra")):
        parts = [evaluation(tmp_path / name / f"{k}", 10 * seed + k, k) for k in range(2)]
        script.keep_variant(f"ablations/{name}", parts)
    header, _, base, extra = cells(script.ablations())
    place = header.index("lesion Dice")
    frames = [pd.concat([table(10 * seed + k) for k in range(2)]) for seed in range(2)]
    means = [frame.loc[frame["true_lesion_pixels"] > 0, "dice"].mean() for frame in frames]
    assert base[1] == extra[1] == "60"
    assert base[place] == f"{means[0]:.3f}"
    assert extra[place].startswith(f"{means[1]:.3f} ({means[1] - means[0]:+.3f}, ")


def test_changes_are_held_against_the_recipe_on_each_set(
    script: ModuleType, tmp_path: Path
) -> None:
    for seed, name in enumerate(("base", "strong", "base.bus_bra", "strong.bus_bra")):
        script.keep_variant(f"pretraining/{name}", [evaluation(tmp_path / name, seed, 0)])
    header, _, *rows = cells(script.pretraining())
    assert [row[1] for row in rows] == ["BUSI", "BUS-BRA"] * 2
    place = header.index("lesion Dice")
    means = [table(k).loc[table(k)["true_lesion_pixels"] > 0, "dice"].mean() for k in (2, 3)]
    assert rows[3][place].startswith(f"{means[1]:.3f} ({means[1] - means[0]:+.3f}, ")


def test_another_fold_than_the_references_is_refused(script: ModuleType, tmp_path: Path) -> None:
    script.keep_variant("ablations/base", [evaluation(tmp_path / "base", 0, 0)])
    script.keep_variant("ablations/extra", [evaluation(tmp_path / "extra", 1, 1)])
    with pytest.raises(ValueError, match=r"base\.csv lacks .*1/image 0.* on the same folds"):
        script.ablations()


def test_an_image_of_two_validation_parts_counts_twice(script: ModuleType, tmp_path: Path) -> None:
    parts = [evaluation(tmp_path / f"fold_{k}", 0, k) for k in range(2)]
    kept = pd.read_csv(script.keep_variant("ablations/base", parts))
    assert len(kept) == 60 and kept["id"].is_unique
    assert kept["group"].nunique() == 15


def test_an_evaluation_is_kept_without_the_machines_paths(
    script: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    table(0).assign(image="/home/someone/images/a (1).png").to_csv(
        folder / "predictions.csv", index=False
    )
    write_json(folder / "metrics.json", evaluate_predictions(table(0), resamples=5))
    kept = script.keep_evaluation("released/busi", folder)
    found = read_predictions(kept)
    assert set(found["image"]) == {"a (1).png"}
    pd.testing.assert_series_equal(found["dice"], table(0)["dice"])
    metrics = read_json(kept / "metrics.json")
    assert metrics["predictions_sha256"] == file_sha256(kept / "predictions.csv")


def test_released_figures_stand_in_one_column_a_dataset(script: ModuleType) -> None:
    for seed, name in enumerate(("busi", "bus_bra")):
        metrics = evaluate_predictions(table(seed), resamples=50, operating_points={"high": 0.5})
        folder = script.RESULTS / "released" / name
        write_json(folder / "metrics.json", metrics)
        table(seed).to_csv(folder / "predictions.csv", index=False)
    rows = cells(script.TABLES["released"]())
    assert rows[0] == ["figure", "BUSI test split", "BUS-BRA test split"]
    assert rows[2] == ["images, groups", "30, 15", "30, 15"]
    assert any(
        row[0] == "high, sensitivity" for row in cells(script.TABLES["released_operating_points"]())
    )
    assert any(row[0] == "benign, recall" for row in cells(script.TABLES["released_by_class"]()))
    assert any(
        row[0] == "small, found at all" for row in cells(script.TABLES["released_by_size"]())
    )


def test_only_what_was_measured_on_a_shipped_split_gets_a_row(script: ModuleType) -> None:
    folder = script.RESULTS / "out_of_fold"
    metrics = evaluate_predictions(table(0), resamples=5)
    sha256 = read_json(find_split("busi-leakfree-v1"))["sha256"]
    write_json(folder / "metrics.json", {**metrics, "datalist_sha256": [sha256]})
    _, _, row = cells(script.TABLES["busi_leakfree_v1"]())
    assert row[:2] == ["first release, from scratch on BUSI and BUS-BRA", "30"]
    assert row[2].startswith(f"{metrics['lesion_dice']['value']:.3f} (")
    write_json(folder / "metrics.json", {**metrics, "datalist_sha256": ["0" * 64]})
    with pytest.raises(ValueError, match="was not measured on busi-leakfree-v1"):
        script.TABLES["busi_leakfree_v1"]()
    lacking = {"datalist_sha256": [sha256], "missing_images": 3}
    write_json(folder / "metrics.json", {**metrics, **lacking})
    with pytest.raises(ValueError, match="lacks 3 images of busi-leakfree-v1"):
        script.TABLES["busi_leakfree_v1"]()


def test_a_stale_page_is_noticed_and_mended(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: released -->\nold\n<!-- end -->\nafter\n", "utf-8")
    monkeypatch.setattr(script, "PAGES", (page,))
    monkeypatch.setitem(script.TABLES, "released", lambda: "new")
    assert script.main(["--check"]) == 1
    assert "old" in page.read_text("utf-8")
    assert script.main([]) == 0
    assert page.read_text("utf-8") == (
        "before\n<!-- table: released -->\n\nnew\n\n<!-- end -->\nafter\n"
    )
    assert script.main(["--check"]) == 0


def keep(script: ModuleType, place: str, seed: int) -> dict[str, Any]:
    rows = table(seed).assign(lesion_fraction=0.01, birads=["3", "4", "5"] * 10)
    metrics = evaluate_predictions(rows, resamples=20)
    write_json(script.RESULTS / place / "metrics.json", metrics)
    rows.to_csv(script.RESULTS / place / "predictions.csv", index=False)
    return metrics


def test_protocols_stand_beside_what_was_aimed_at(script: ModuleType) -> None:
    folds = keep(script, "second_out_of_fold_with_rule/busi", 0)
    before = keep(script, "out_of_fold_with_rule/busi", 1)
    rows = cells(script.TABLES["protocol_targets"]())
    assert rows[0] == [
        "protocol", "figure", "second release", "aim", "reached", "first release",
    ]  # fmt: skip
    by_figure = {row[1]: row for row in rows[2:]}
    assert by_figure["lesion Dice"][3:5] == ["≥ 0.77", "no"]
    assert by_figure["lesion Dice"][2].startswith(f"{folds['lesion_dice']['value']:.3f} (")
    assert by_figure["lesion Dice"][2].endswith("n = 20")
    assert by_figure["lesion Dice"][5].startswith(f"{before['lesion_dice']['value']:.3f} (")
    assert by_figure["AUC, malignant against rest"][3] == "≥ 0.955"
    assert by_figure["expected calibration error"][3:5] == ["≤ 0.04", "no"]
    assert len(rows) == 2 + 9


def test_every_protocol_tells_its_images_and_hashes(script: ModuleType) -> None:
    path = script.RESULTS / "out_of_fold_with_rule/busi/metrics.json"
    metrics = keep(script, "out_of_fold_with_rule/busi", 0)
    provenance = {
        "datalist_sha256": ["0123456789abcdef"],
        "predictions_sha256": "fedcba9876543210",
        "leaks": {"count": 0, "evaluation_images": 30},
    }
    write_json(path, {**metrics, **provenance})
    (found,) = cells(script.TABLES["protocol_provenance"]())[2:]
    assert found[1:] == ["30, 15", "0 of 30", "`0123456789ab…`", "`fedcba987654…`"]
    without = {**metrics, "predictions_sha256": "fedcba9876543210"}
    write_json(path, without)
    (found,) = cells(script.TABLES["protocol_provenance"]())[2:]
    assert found[1:] == ["30, 15", "–", "–", "`fedcba987654…`"]


def test_what_is_shown_is_held_against_the_aim(script: ModuleType) -> None:
    metrics = keep(script, "second_out_of_fold_with_rule/busi", 0)
    values = {"lesion_dice": 0.7696, "accuracy": 0.8394, "ece": 0.04, "macro_f1": None}
    for name, value in values.items():
        metrics[name] |= {"value": value}
    write_json(script.RESULTS / "second_out_of_fold_with_rule/busi/metrics.json", metrics)
    rows = {row[1]: row for row in cells(script.TABLES["protocol_targets"]())}
    titles = importlib.import_module("table_cells").FIGURES
    reached = [rows[titles[name]][4] for name in values]
    assert reached == ["yes", "no", "yes", "–"]


def test_published_splits_are_averaged_in_both_manners(script: ModuleType) -> None:
    found = [keep(script, f"published_split_{k}", k) for k in (1, 2)]
    rows = {row[1]: row for row in cells(script.TABLES["protocol_targets"]())[2:]}
    batches = [metrics["batch_averaged"]["iou"]["value"] for metrics in found]
    images = [metrics["lesion_dice"]["value"] for metrics in found]
    assert rows["IoU, averaged over batches"][5] == (
        f"{np.mean(batches):.3f} ± {np.std(batches, ddof=1):.3f}"
    )
    assert rows["F1, mean over lesions"][2:] == [
        "–", "–", "–", f"{np.mean(images):.3f} ± {np.std(images, ddof=1):.3f}",
    ]  # fmt: skip
    assert "2 of the 3 published splits" in rows["IoU, averaged over batches"][0]


def test_out_of_fold_figures_of_both_releases_stand_side_by_side(script: ModuleType) -> None:
    sets = ("busi", "bus_bra", "bus_uclm")
    places = [f"second_out_of_fold_with_rule/{name}" for name in sets]
    places += ["out_of_fold_with_rule/busi", "out_of_fold_with_rule/bus_bra"]
    found = {place: keep(script, place, seed) for seed, place in enumerate(places)}
    rows = cells(script.TABLES["out_of_fold"]())
    assert rows[0] == [
        "figure", "BUSI", "BUS-BRA", "BUS-UCLM", "BUSI, first release",
        "BUS-BRA (folds 1 and 2), first release",
    ]  # fmt: skip
    assert rows[2] == ["images, groups", *["30, 15"] * 5]
    (dice,) = [row for row in rows if row[0] == "lesion Dice"]
    assert dice[4].startswith(f"{found[places[3]]['lesion_dice']['value']:.3f} (")
    assert len(cells(script.TABLES["out_of_fold_main"]())) < len(rows)
    birads = cells(script.TABLES["out_of_fold_birads"]())
    assert birads[0] == ["figure", "BUS-BRA, out of fold, n = 30"]
    assert birads[2] == ["BI-RADS: AUC for malignancy", "1.000 (1.000–1.000)"]
    assert any(row[0] == "small, Dice" for row in cells(script.TABLES["out_of_fold_by_size"]()))


def test_seeds_stand_beside_each_other(script: ModuleType) -> None:
    found = [keep(script, f"seeds/{seed}", seed) for seed in range(3)]
    rows = cells(script.TABLES["seeds"]())
    assert rows[0] == ["BUSI, fold 0", "seed 0", "seed 1", "seed 2", "mean ± deviation"]
    (dice,) = [row for row in rows if row[0] == "lesion Dice"]
    values = [metrics["lesion_dice"]["value"] for metrics in found]
    assert dice[1].startswith(f"{values[0]:.3f} (")
    assert dice[4] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
