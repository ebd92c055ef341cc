from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.curation import PrepareOptions, load_datalist, prepare_dataset
from busi_monai.curation.datalist import Datalist


def verify(*words: object) -> Result:
    return CliRunner().invoke(main, ["verify", *(str(word) for word in words)])


@pytest.fixture
def prepared(phantom_busi, tmp_path, monkeypatch):
    monkeypatch.setattr("busi_monai.curation.prepare.write_audit", lambda audit, out: [])
    prepare_dataset(phantom_busi, tmp_path / "out", PrepareOptions(ratios="50/25/25"))
    return tmp_path / "out"


def test_a_sound_folder_is_green(prepared):
    result = verify(prepared)
    assert result.exit_code == 0, result.output
    assert "All is well" in result.stdout
    assert "0 of 12 evaluation images have a near-duplicate in training" in result.stdout


def test_a_planted_leak_is_red(prepared):
    datalist = load_datalist(prepared)
    source, target = datalist.training[0]["image"], datalist.test[0]["image"]
    (prepared / target).write_bytes((prepared / source).read_bytes())
    result = verify(prepared)
    assert result.exit_code == 1
    assert "near_duplicate" in result.stdout
    assert target in result.stdout
    assert "1 of 12 evaluation images has" in result.stdout


def test_several_folders_are_compared_with_each_other(prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    result = verify(prepared, other)
    assert result.exit_code == 0, result.output
    assert "Between the 2 folders, 48 images: 0 near-duplicates across splits" in result.stdout
    datalist = load_datalist(prepared)
    moved = {"training": [*datalist.training, *datalist.test], "test": datalist.validation}
    values = {name: getattr(datalist, name) for name in datalist.__dataclass_fields__}
    Datalist(**{**values, **moved, "validation": []}).save(other / "datalist.json")
    result = verify(prepared, other, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    kinds = {problem["kind"] for problem in report["shared"]["problems"]}
    assert kinds == {"shared_image"} and len(report["folders"]) == 2 and not report["ok"]
    assert "Problems found" in verify(prepared, other).stdout


def test_every_folder_has_its_report_though_one_is_bad(prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    datalist = (other / "datalist.json").read_text(encoding="utf-8")
    (other / "datalist.json").write_text(datalist.replace('"seed": 0', '"seed": 1'), "utf-8")
    result = verify(prepared, other)
    assert result.exit_code == 1
    assert "was changed after it was written" in result.stdout
    assert "Between the 2 folders, 48 images" in result.stdout
    assert result.stdout.rstrip().endswith("Problems found.")
    (other / "datalist.json").unlink()
    result = verify(prepared, other)
    assert result.exit_code == 2 and "All is well" in result.stdout
    assert "datalist.json does not exist" in result.output


def test_a_folder_is_not_compared_with_itself(prepared):
    result = verify(prepared, prepared)
    assert result.exit_code == 2 and "is given more than once" in result.output
    assert "datalist: form" not in result.output


def test_a_leak_that_the_protocol_allows_is_named(phantom_busi, tmp_path, monkeypatch):
    monkeypatch.setattr("busi_monai.curation.prepare.write_audit", lambda audit, out: [])
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text(f"normal ({1 if name == 'train' else 2})\n")
    (copy / "normal/normal (2).png").write_bytes((copy / "normal/normal (1).png").read_bytes())
    lists = {f"{name}_list": tmp_path / f"{name}.txt" for name in ("train", "validation")}
    prepare_dataset(copy, tmp_path / "out", PrepareOptions(protocol="file", **lists))
    result = verify(tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "stated, not judged" in result.stdout
    assert "1 of 1 evaluation images has a near-duplicate in training" in result.stdout
    assert "it leaks, which the protocol file allows" in result.stdout
    assert "All is well" not in result.stdout


def test_json_lists_the_problems(prepared):
    (prepared / "images/extra.png").write_bytes(b"")
    result = verify(prepared, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [problem["kind"] for problem in report["problems"]] == ["stray_file"]


def test_quiet_leaves_only_the_code(prepared):
    result = verify(prepared, "--quiet")
    assert (result.exit_code, result.stdout) == (0, "")


def test_what_is_no_prepared_folder_is_refused(tmp_path):
    result = verify(tmp_path)
    assert result.exit_code == 2
    assert "busi-monai prepare DATASET --out DIR" in result.stderr
