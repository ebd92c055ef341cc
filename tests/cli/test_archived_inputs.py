"""Archives as input of predict, audit and prepare: their files are named by archive and member."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from busi_monai.cli.main import main


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Iterator[Path]:
    """Where temporary folders are made: not named anywhere, and empty at the end."""
    place = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


def assert_silent(temporary: Path, result: Result, out: Path) -> None:
    """Nothing printed or written names the temporary folder."""
    mark = str(temporary)
    assert mark not in result.stdout + result.stderr
    for path in out.rglob("*"):
        assert path.is_dir() or mark.encode() not in path.read_bytes(), path


@pytest.fixture
def scans(tmp_path: Path, phantom_busi: Path) -> Path:
    """``scans.zip``: two images with a mask and a damaged one in folders, and what is left out."""
    path = tmp_path / "scans.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "benign/benign (1).png",
            "benign/benign (1)_mask.png",
            "normal/normal (1).png",
        ):
            archive.write(phantom_busi / name, f"set/{name}")
        archive.writestr("set/benign/bad.png", b"no image")
        archive.write(phantom_busi / "normal/normal (2).png", "../outside.png")
        archive.writestr("set/notes.doc", b"x")
    return path


def test_predict_takes_all_images_of_an_archive(scans, tiny_bundle, tmp_path, temporary):
    before = hashlib.sha256(scans.read_bytes()).hexdigest()
    out = tmp_path / "out"
    result = run(
        "predict", scans, "--out", out, "--model", tiny_bundle, "--device", "cpu", "--json"
    )
    assert result.exit_code == 1
    with (out / "predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["id"], row["image"]) for row in rows] == [
        ("bad", f"{scans}/set/benign/bad.png"),
        ("benign (1)", f"{scans}/set/benign/benign (1).png"),
        ("normal (1)", f"{scans}/set/normal/normal (1).png"),
        ("outside", f"{scans}/../outside.png"),
    ]
    assert rows[0]["error"].startswith(f"{scans}/set/benign/bad.png: not an image")
    assert rows[3]["error"].endswith("left out: its name leads out of the archive")
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["left_out"] == {".doc": 1} and record["skipped_masks"] == 1
    assert [failure["file"] for failure in record["failures"]] == [
        f"{scans}/set/benign/bad.png",
        f"{scans}/../outside.png",
    ]
    with Image.open(out / "overlays" / "benign (1).png") as overlay:
        assert overlay.width == 128
    assert_silent(temporary, result, out)
    assert hashlib.sha256(scans.read_bytes()).hexdigest() == before


def test_archives_of_equal_members_and_an_unreadable_one(scans, tiny_bundle, tmp_path, monkeypatch):
    shutil.copy(scans, tmp_path / "other.zip")
    (tmp_path / "no.tar.gz").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    inputs = ("scans.zip", "other.zip", "./scans.zip", "no.tar.gz")
    result = run("predict", *inputs, "--out", "out", "--model", tiny_bundle, "--device", "cpu")
    assert "Failed: no.tar.gz: not a readable archive" in result.stderr
    assert "Failed: scans.zip/set/benign/bad.png: not an image" in result.stderr
    masks = {path.stem for path in (tmp_path / "out" / "masks").iterdir()}
    assert {"scans.zip__set__normal__normal (1)", "other.zip__set__normal__normal (1)"} < masks
    assert len(masks) == 4
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as stream:
        assert f"{scans}/set/normal/normal (1).png" in {
            row["image"] for row in csv.DictReader(stream)
        }


def test_masks_in_a_folder_beside_the_images_are_no_images(phantom_busi, tmp_path, tiny_bundle):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(phantom_busi / "benign/benign (1).png", "Images/bus_1.png")
        archive.write(phantom_busi / "benign/benign (1)_mask.png", "Masks/mask_1.png")
    result = run(
        "predict", tmp_path / "x.zip", "--out", tmp_path / "out", "--model", tiny_bundle, "--json"
    )
    summary = json.loads(result.stdout)
    assert [row["id"] for row in summary["rows"]] == ["bus_1"] and summary["skipped_masks"] == 1


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archived_dataset_is_audited_and_prepared_as_its_folder(
    kind, phantom_busi, tmp_path, temporary
):
    archive = Path(shutil.make_archive(str(tmp_path / "set"), kind, phantom_busi.parent, "busi"))
    before = hashlib.sha256(archive.read_bytes()).hexdigest()
    out = tmp_path / "audit"
    result = run("audit", archive, "--out", out)
    assert result.exit_code == 0, result.output
    audit = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert audit["root"] == f"{archive}/busi" and audit["images"] == 24
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["root"] == audit["root"]
    assert_silent(temporary, result, out)
    for source, name in ((archive, "of_archive"), (phantom_busi, "of_folder")):
        result = run("prepare", source, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert_silent(temporary, result, tmp_path / name)
    datalists = [(tmp_path / name / "datalist.json") for name in ("of_archive", "of_folder")]
    assert datalists[0].read_bytes() == datalists[1].read_bytes()
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == before


def test_what_is_refused_of_a_dataset_is_a_failure(scans, tmp_path, temporary):
    for command, *more in (("audit",), ("prepare", "--protocol", "external")):
        out = tmp_path / command
        result = run(command, scans, "--out", out, *more)
        assert result.exit_code == 1
        assert "Failed: ../outside.png: left out: its name leads out" in result.stderr
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        assert record["left_out"] == {".doc": 1}
        assert "Left out: 1 × .doc" in result.stdout
        assert "../outside.png" in {failure["file"] for failure in record["failures"]}
        assert_silent(temporary, result, out)


def test_errors_name_the_archive(tmp_path, temporary):
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/x.png", b"")
        archive.writestr("labels.csv", "image\nx\n")
    for words in (("audit", path), ("prepare", path, "--out", tmp_path / "out")):
        result = run(*words)
        assert result.exit_code == 2
        assert f"Error: {path}/labels.csv: expected the columns" in result.stderr


@pytest.mark.parametrize("command", ["predict", "audit", "prepare"])
@pytest.mark.parametrize("place", ["", "scans.zip", "scans.zip/out"])
def test_no_output_over_the_archive(command, place, scans, tiny_bundle, tmp_path):
    before = scans.read_bytes()
    more = ("--model", tiny_bundle) if command == "predict" else ()
    result = run(command, scans, "--out", tmp_path / place, "--overwrite", *more)
    assert result.exit_code in {1, 2} and "Error" in result.stderr
    assert scans.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["scans.zip"]


@pytest.mark.parametrize("command", ["predict", "audit", "prepare"])
def test_ctrl_c_leaves_no_temporary_folder(command, scans, tiny_bundle, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("busi_monai.inference.folders.Predictor.load", interrupted)
    monkeypatch.setattr("busi_monai.curation.audit.examine_case", interrupted)
    more = ("--model", tiny_bundle) if command == "predict" else ()
    assert run(command, scans, "--out", tmp_path / "out", *more).exit_code == 130


@pytest.mark.slow
def test_a_time_limit_leaves_no_temporary_folder(scans, tmp_path):
    """As schedulers and containers end a process."""
    script = (
        "import sys, time; from busi_monai.io.archives import unpacked\n"
        "with unpacked(sys.argv[1]) as archive: print(archive.folder, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(scans)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not folder.parent.exists()


def test_the_files_that_a_dicomdir_in_an_archive_names(save_ultrasound, tmp_path, tiny_bundle):
    import numpy as np
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    pixels = np.arange(96 * 128, dtype=np.uint8).reshape(96, 128)
    disc = tmp_path / "disc"
    save_ultrasound(disc / "IMAGES" / "IM01", pixels)
    records = Sequence([Dataset(), Dataset()])
    for record, name in zip(records, ("IM01", "IM02"), strict=True):
        record.ReferencedFileID = ["IMAGES", name]
    save_ultrasound(disc / "DICOMDIR", pixels, DirectoryRecordSequence=records)
    archive = shutil.make_archive(str(tmp_path / "disc"), "zip", tmp_path, "disc")
    result = run("predict", archive, "--out", tmp_path / "out", "--model", tiny_bundle, "--json")
    summary = json.loads(result.stdout)
    assert [row["image"] for row in summary["rows"]] == [f"{archive}/disc/IMAGES/IM01"]
    assert summary["failures"][0]["file"] == f"{archive}/disc/IMAGES/IM02"
    assert f"named by {archive}/disc/DICOMDIR" in summary["failures"][0]["message"]
