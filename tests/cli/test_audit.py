from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.phantoms import write_phantom_dataset


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *(str(word) for word in arguments)])


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoilt") / "busi"
    return write_phantom_dataset(folder, cases=6, seed=4, size=(96, 128), defects=True)


def test_clean_dataset_exits_with_0_and_a_summary(phantom_busi):
    result = run(phantom_busi)
    assert result.exit_code == 0, result.output
    assert "near-duplicate groups" in result.stdout
    assert "24" in result.stdout


def test_damaged_file_exits_with_1_after_the_rest(spoilt, tmp_path):
    result = run(spoilt, "--out", tmp_path / "out")
    assert result.exit_code == 1
    failed = [line for line in result.stderr.splitlines() if line.startswith("Failed:")]
    assert len(failed) == 2
    assert any("_mask.png: expected the size of" in line for line in failed)
    assert all(line.count("damaged") == line.count(".png") for line in failed if "damaged" in line)
    assert "unreadable" in result.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"audit.json", "cases.csv", "figures", "run.json"}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["failures"]


def test_json_is_all_of_stdout(spoilt, tmp_path):
    result = run(spoilt, "--json", "--out", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert json.loads(result.stdout) == written
    assert {"dataset", "root", "images", "masks", "classes", "multi_mask", "duplicate_groups",
            "class_conflicts", "artefacts", "problems"} <= set(written)  # fmt: skip


def test_quiet_prints_nothing_on_stdout(phantom_busi):
    result = run(phantom_busi, "--quiet")
    assert result.exit_code == 0
    assert result.stdout == ""


@pytest.mark.parametrize("layout", ["auto", "nonsense"])
def test_wrong_usage_exits_with_2(tmp_path, layout):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", "--layout", layout)
    assert result.exit_code == 2
    assert "Error:" in result.stderr


def test_missing_dataset_exits_with_2(tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_known_images_are_counted_by_reason_and_prepare_leaves_them_out(phantom_busi, tmp_path):
    known = tmp_path / "known.csv"
    known.write_text("id,reason\nbenign (1).png,axilla\nmalignant (1),axilla\n", encoding="utf-8")
    result = run(phantom_busi, "--known", known)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if "known: axilla" in line and "2" in line]
    words = ["prepare", phantom_busi, "--out", tmp_path / "out", "--known", known]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "left out, 2: known" in result.stdout
    datalist = json.loads((tmp_path / "out" / "datalist.json").read_text(encoding="utf-8"))
    assert datalist["excluded"] == [
        {"id": "benign (1)", "reason": "known: axilla"},
        {"id": "malignant (1)", "reason": "known: axilla"},
    ]
    ids = {item["id"] for part in ("training", "validation", "test") for item in datalist[part]}
    assert not ids & {"benign (1)", "malignant (1)"}
    assert not (tmp_path / "out" / "images" / "benign (1).png").exists()
