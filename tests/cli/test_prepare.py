from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from busi_monai.cli.main import main
from busi_monai.curation import load_datalist
from busi_monai.curation.protocols import PROTOCOLS
from busi_monai.phantoms import write_phantom_dataset


def prepare(*words: object) -> Result:
    return CliRunner().invoke(main, ["prepare", *(str(word) for word in words)])


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busi_monai.curation.prepare.write_audit", lambda audit, out: [])


def test_help_names_every_protocol():
    result = prepare("--help")
    assert result.exit_code == 0
    for protocol in PROTOCOLS:
        assert f"{protocol}:" in result.stdout


def test_an_option_of_version_0_1_0_is_read_with_a_note(phantom_busi, tmp_path):
    for name, number in (("train", 1), ("val", 2)):
        (tmp_path / name).write_text(f"normal ({number})\n")
    words = ("--train-list", tmp_path / "train", "--val-list", tmp_path / "val")
    result = prepare(phantom_busi, "--out", tmp_path / "out", "--protocol", "file", *words)
    assert result.exit_code == 0, result.output
    assert "--val-list is now --validation-list" in result.stderr


def test_the_summary_shows_splits_and_leaks(phantom_busi, tmp_path):
    result = prepare(phantom_busi, "--out", tmp_path / "out", "--ratios", "50/25/25")
    assert result.exit_code == 0, result.output
    assert "split" in result.stdout and "train " in result.stdout
    assert "0 of 12 evaluation images have a near-duplicate in training" in result.stdout
    assert load_datalist(tmp_path / "out").sha256[:12] in result.stdout


def test_official_folds_tell_how_many_patients_they_tear_apart(tmp_path):
    source = tmp_path / "bus_bra"
    write_phantom_dataset(source, cases=10, seed=0, size=(64, 80), layout="bus_bra")
    result = prepare(source, "--out", tmp_path / "out", "--protocol", "official")
    assert result.exit_code == 0, result.output
    assert "0 patients have images in several folds" in result.stdout
    assert "fold 4" in result.stdout


def test_json_is_the_only_thing_on_stdout(phantom_busi, tmp_path):
    result = prepare(phantom_busi, "--out", tmp_path / "out", "--folds", 4, "--json")
    summary = json.loads(result.stdout)
    assert summary["datalist_sha256"] == load_datalist(tmp_path / "out").sha256
    assert list(summary["counts"]) == ["fold 0", "fold 1", "fold 2", "fold 3"]


def test_bad_files_are_listed_and_the_code_is_1(phantom_busi, tmp_path):
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    (copy / "benign/benign (1).png").write_bytes(b"")
    result = prepare(copy, "--out", tmp_path / "out", "--protocol", "external", "--quiet")
    assert result.exit_code == 1
    assert "Failed: benign/benign (1).png: the file is empty (0 bytes)" in result.stderr
    assert result.stderr.count("benign (1).png") == 1
    assert result.stdout == ""
    assert len(load_datalist(tmp_path / "out").test) == 23


def test_equal_names_in_the_class_folders_are_a_note_and_no_failure(phantom_busi, tmp_path):
    for image in phantom_busi.glob("*/*.png"):
        target = tmp_path / "busi" / image.parent.name / image.name.partition(" ")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(image)

    result = prepare(tmp_path / "busi", "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert "Failed:" not in result.output
    assert "these are part of their ids: 'normal-(1)'" in result.stderr
    assert (tmp_path / "out/images/benign-(1).png").is_file()


def test_a_repeated_datalist_tells_its_name_and_what_it_does_not_know(folds, tmp_path):
    published = replace(load_datalist(folds), name="phantoms-v1").save(tmp_path / "datalist.json")
    copy = write_phantom_dataset(tmp_path / "copy", cases=24, seed=0, size=(96, 128))
    Image.linear_gradient("L").save(copy / "normal/normal (99).png")
    result = prepare(copy, "--out", tmp_path / "out", "--from-datalist", published)
    assert result.exit_code == 0, result.output
    assert "phantoms-v1: leakfree, seed 0" in " ".join(result.stdout.split())
    assert result.stderr == "Left out, not in the datalist, 1: normal (99)\n"


def test_an_unknown_split_is_refused_with_the_shipped_ones(phantom_busi, tmp_path):
    result = prepare(phantom_busi, "--out", tmp_path / "out", "--from-datalist", "busi-v9")
    assert result.exit_code == 2
    assert "no datalist 'busi-v9'; expected a datalist.json or one of busi-leakfree-v1, " in (
        result.stderr
    )


def test_a_mask_of_another_size_is_named(phantom_busi, tmp_path):
    copy = shutil.copytree(phantom_busi, tmp_path / "copy")
    Image.new("L", (20, 10)).save(copy / "benign/benign (1)_mask.png")
    result = prepare(copy, "--out", tmp_path / "out", "--protocol", "external", "-q")
    assert result.exit_code == 1
    expected = "Failed: benign/benign (1)_mask.png: expected the size of benign (1).png"
    assert expected in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "curated"], "needs --ids FILE"),
        (["--protocol", "grouped"], "leakfree"),
        (["--ratios", "1/2"], "add up to 100"),
        (["--folds", "9"], "choose at most 8 folds"),
        (["--protocol", "external", "--dedup", "exact"], "only for random"),
        (["--layout", "cifar"], "'cifar' is not one of"),
    ],
)
def test_wrong_usage_is_explained_and_writes_nothing(phantom_busi, tmp_path, words, message):
    result = prepare(phantom_busi, "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_and_empty_datasets_are_refused(tmp_path):
    result = prepare(tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (result.exit_code, "nowhere does not exist" in result.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    result = prepare(tmp_path / "empty", "--out", tmp_path / "out")
    assert (result.exit_code, "is empty" in result.stderr) == (2, True)


def test_an_interrupted_run_keeps_the_previous_folder(phantom_busi, tmp_path, monkeypatch):
    out: Path = tmp_path / "out"
    prepare(phantom_busi, "--out", out)
    before = (out / "datalist.json").read_bytes()

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("busi_monai.curation.storage.write_mask", interrupt)
    result = prepare(phantom_busi, "--out", out, "--seed", 1, "--overwrite")
    assert result.exit_code == 130
    assert (out / "datalist.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]
