from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from busi_monai import records
from busi_monai.records import RunRecord, installed_versions, source_commit


def test_versions_of_what_is_installed() -> None:
    versions = installed_versions(["numpy", "a-package-that-is-not-there"])
    assert versions["python"] == platform.python_version()
    assert set(versions) == {"python", "numpy"}


@pytest.fixture
def asked_anew() -> Iterator[None]:
    source_commit.cache_clear()
    yield
    source_commit.cache_clear()


def git(folder: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *named, *words], check=True, capture_output=True)


@pytest.mark.usefixtures("asked_anew")
def test_the_commit_of_a_checkout_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "busi_monai" / "records.py"
    module.parent.mkdir()
    module.write_text("first", encoding="utf-8")
    monkeypatch.setattr(records, "__file__", str(module))
    assert source_commit() is None
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "first")
    source_commit.cache_clear()
    commit = source_commit()
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{40}", commit)
    module.write_text("second", encoding="utf-8")
    source_commit.cache_clear()
    assert source_commit() == f"{commit}-dirty"


@pytest.mark.usefixtures("asked_anew")
def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(records, "__file__", str(tmp_path / "busi_monai" / "records.py"))
    monkeypatch.setenv("PATH", "")
    assert source_commit() is None


def test_the_record_is_written_with_details_and_failures(tmp_path: Path) -> None:
    record = RunRecord(command=["busi-monai", "predict", "bénign (1).png"], details={"seed": 0})
    record.fail(tmp_path / "broken.png", ValueError("damaged"))
    path = record.write(tmp_path, {"device": "cpu"})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "run.json"
    assert content["command"] == ["busi-monai", "predict", "bénign (1).png"]
    assert (content["seed"], content["device"]) == (0, "cpu")
    assert content["failures"] == [{"file": str(tmp_path / "broken.png"), "message": "damaged"}]
    assert content["versions"]["torch"]
    assert content["platform"]["cpus"] >= 1
    assert datetime.fromisoformat(content["started"]).tzinfo is not None


def test_a_record_begins_with_this_process_alone() -> None:
    RunRecord().fail("a", "b")
    record = RunRecord()
    record.started -= 10
    content = record.as_dict()
    assert content["failures"] == [] and content["command"]
    assert 10 <= content["seconds"] < 20
