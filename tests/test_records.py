from __future__ import annotations

import json
import platform
from datetime import datetime
from pathlib import Path

from busi_monai.records import RunRecord, installed_versions


def test_versions_of_what_is_installed() -> None:
    versions = installed_versions(["numpy", "a-package-that-is-not-there"])
    assert versions["python"] == platform.python_version()
    assert set(versions) == {"python", "numpy"}


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


def test_the_duration_is_measured_from_the_start() -> None:
    record = RunRecord()
    record.started -= 10
    assert 10 <= record.as_dict()["seconds"] < 20


def test_records_do_not_share_their_failures() -> None:
    RunRecord().fail("a", "b")
    assert RunRecord().failures == []


def test_the_command_is_this_process_s_by_default() -> None:
    assert RunRecord().as_dict()["command"]
