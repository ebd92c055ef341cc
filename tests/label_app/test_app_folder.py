from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.errors import InputError
from busi_monai.files import read_json
from busi_monai.label_app.app_folder import (
    check_port,
    read_app_settings,
    write_app_folder,
)

WITHOUT_MONAI_LABEL = importlib.util.find_spec("monailabel") is None


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_writes_an_app(tiny_bundle: Path, studies: Path, tmp_path: Path) -> None:
    result = run(
        "label-app", "--out", tmp_path / "app", "--studies", studies, "--model", tiny_bundle,
        "--device", "cpu", "--port", 8123, "--no-start",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "python -m monailabel.main start_server" in result.output
    assert "--port 8123" in result.output and "not a medical device" in result.output
    compile((tmp_path / "app/main.py").read_text("utf-8"), "main.py", "exec")
    assert read_json(tmp_path / "app/settings.json") == {
        "bundle": str(tiny_bundle),
        "device": "cpu",
    }


@pytest.mark.skipif(not WITHOUT_MONAI_LABEL, reason="MONAI Label is installed here")
def test_without_monai_label_the_command_says_what_to_do(
    tiny_bundle: Path, studies: Path, tmp_path: Path
) -> None:
    result = run(
        "label-app", "--out", tmp_path / "app", "--studies", studies, "--model", tiny_bundle
    )
    assert result.exit_code == 2 and "make label-env" in result.output
    assert not (tmp_path / "app").exists()


def test_a_shipped_bundle_is_kept_by_name(tmp_path: Path) -> None:
    name = "breast_ultrasound_segmentation_classification"
    app = write_app_folder(tmp_path / "app", name)
    assert read_app_settings(app, {})["bundle"] == name
    assert read_app_settings(app, {"bundle": "other"})["bundle"] == "other"


def test_an_app_that_is_there_keeps_what_it_trained(tiny_bundle: Path, tmp_path: Path) -> None:
    app = write_app_folder(tmp_path / "app", tiny_bundle)
    (app / "model").mkdir()
    (app / "model" / "served.json").write_text("{}")
    write_app_folder(app, tiny_bundle, device="cpu")
    assert (app / "model" / "served.json").read_text() == "{}"
    assert read_app_settings(app, {})["device"] == "cpu"


def test_other_folders_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty, and no app"):
        write_app_folder(tmp_path / "mine", tiny_bundle)
    with pytest.raises(InputError, match="is a file"):
        write_app_folder(tmp_path / "mine" / "notes.txt", tiny_bundle)


def test_a_bundle_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without weights"):
        write_app_folder(tmp_path / "app", "breast_ultrasound_two_stage")
    assert not (tmp_path / "app").exists()


def test_a_port_that_is_taken_is_told_before_the_server_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}: .*choose another --port"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", 0)
