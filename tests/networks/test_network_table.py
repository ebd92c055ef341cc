from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from busi_monai.networks import ENCODERS

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "network_table.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("network_table", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_states_what_the_code_gives(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_every_encoder_has_a_row(script: ModuleType) -> None:
    rows = script.PAGE.read_text("utf-8").split(script.START)[1].split(script.END)[0]
    named = [line.split("`")[1] for line in rows.splitlines() if line.startswith("| `")]
    assert named == sorted(ENCODERS)


def test_a_changed_table_is_noticed_and_mended(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = script.PAGE.read_text("utf-8")
    monkeypatch.setattr(script, "PAGE", tmp_path / "networks.md")
    script.PAGE.write_text(page.replace("| `resnet18` | 2,", "| `resnet18` | 3,"), "utf-8")
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert script.PAGE.read_text("utf-8") == page
