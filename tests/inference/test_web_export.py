"""The exported page apart from a browser: what is written, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from busi_monai.bundle import Bundle
from busi_monai.cli.main import main
from busi_monai.inference.web_export import RUNTIME

PAGE = Path(__file__).resolve().parents[2] / "busi_monai" / "inference" / "web"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A package of the names that are needed, and others."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    for name in (*RUNTIME, "ort.all.js"):
        (folder / "dist" / name).write_text(name)
    return folder


def export(*words: object) -> Result:
    return CliRunner().invoke(main, ["export", "--format", "web", *map(str, words)])


def test_a_missing_or_wrong_runtime_is_explained(tiny_bundle, tmp_path, runtime):
    words = ("--model", tiny_bundle, "--out", tmp_path / "page", "--runtime")
    found = export(*words, tmp_path / "nowhere")
    assert found.exit_code == 2 and "nowhere is no folder" in found.output
    found = export(*words, tmp_path)
    assert found.exit_code == 2 and "npm pack onnxruntime-web" in found.output
    (runtime / "dist" / RUNTIME[-1]).unlink()
    found = export(*words, runtime)
    assert found.exit_code == 2 and f"holds no {RUNTIME[-1]}" in found.output
    assert not (tmp_path / "page").exists()


def test_folder_and_runtime_are_asked_for(tmp_path, runtime):
    found = export("--out", tmp_path / "page")
    assert found.exit_code == 2 and "needs --out FOLDER and --runtime FOLDER" in found.output
    found = CliRunner().invoke(main, ["export", "--runtime", str(runtime)])
    assert found.exit_code == 2 and "belong to --format web" in found.output


def test_what_lies_in_the_folder_stays(tiny_bundle, tmp_path, runtime):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").touch()
    words = ("--model", tiny_bundle, "--runtime", runtime, "--out")
    found = export(*words, tmp_path / "page", "--overwrite")
    assert found.exit_code == 2 and "is not empty" in found.output
    found = export(*words, tmp_path)
    assert found.exit_code == 2 and "which it reads" in found.output
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["mine.txt"]


def test_settings_that_no_graph_covers_are_refused(tiny_bundle, tmp_path, runtime):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    replace(Bundle(bundle).settings, median_filter=3).save(bundle)
    found = export("--model", bundle, "--runtime", runtime, "--out", tmp_path / "page")
    assert found.exit_code == 2 and "no exported graph covers median_filter" in found.output
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
def test_the_folder_holds_what_the_page_needs(tiny_bundle, tmp_path, runtime):
    pytest.importorskip("onnxscript")
    page = tmp_path / "page"
    words = ("--model", tiny_bundle, "--out", page, "--runtime")
    found = export(*words, runtime / "dist", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["format"] == "web"
    assert sorted(path.name for path in (page / "runtime").iterdir()) == sorted(RUNTIME)
    bundle = Bundle(tiny_bundle)
    about = json.loads((page / "model.json").read_text("utf-8"))
    assert about["settings"] == json.loads(json.dumps(bundle.settings.as_dict()))
    assert about["weights_sha256"] == bundle.weights_sha256
    html = (page / "index.html").read_text("utf-8")
    assert "For research use only; not a medical device." in html
    assert "$" not in html + (page / "style.css").read_text("utf-8")
    for name in re.findall(r'(?:src|href)="([^":]+\.\w+)"', html):
        assert (page / name).is_file(), name
    found = export(*words, runtime)
    assert found.exit_code == 2 and "pass --overwrite" in found.output
    assert export(*words, runtime, "--overwrite").exit_code == 0


def test_the_page_names_no_other_host():
    for path in PAGE.iterdir():
        assert not re.search(r"https?://|//cdn", path.read_text("utf-8")), path.name
