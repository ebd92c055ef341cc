from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner, Result
from PIL import Image

from busi_monai.cli.main import main


def show(*words: object) -> Result:
    return CliRunner().invoke(main, ["show", *(str(word) for word in words)])


def test_sheet_and_charts_in_one_go(phantom_prepared: Path, tmp_path: Path) -> None:
    sheet, charts = tmp_path / "sheet.png", tmp_path / "charts"
    result = show(phantom_prepared, "--n", 4, "--out", sheet, "--charts", charts)
    assert result.exit_code == 0, result.output
    assert "Drew 4 images" in result.stdout
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"
    assert (charts / "classes.png").is_file()


def test_json_names_what_is_shown(phantom_prepared: Path, tmp_path: Path) -> None:
    words = ["--id", "benign (2)", "--id", "normal (1)", "--json"]
    result = show(phantom_prepared, "--out", tmp_path / "sheet.pdf", *words)
    assert json.loads(result.stdout) == {"shown": ["benign (2)", "normal (1)"], "failures": []}


def test_fewer_images_than_wanted_are_told(phantom_prepared: Path, tmp_path: Path) -> None:
    result = show(phantom_prepared, "--class", "Normal", "--n", 50, "--out", tmp_path / "sheet.png")
    assert "Drew 8 images (there are no more than 8)" in result.stdout


def test_wrong_usage_is_refused(phantom_prepared: Path, tmp_path: Path) -> None:
    for words, message in (
        ([], "--out FILE, --charts DIR or both"),
        (["--out", tmp_path / "x.gif"], ".png or .pdf"),
        (["--out", tmp_path / "x.png", "--id", "begnin (1)"], "benign (1)"),
        (["--out", tmp_path / "x.png", "--fold", "1", "--split", "train"], "it has no folds"),
    ):
        result = show(phantom_prepared, *words)
        assert result.exit_code == 2, result.output
        assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_image_is_listed_and_the_rest_drawn(
    phantom_prepared: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(phantom_prepared, copy)
    (copy / "images" / "benign (1).png").write_bytes(b"no image")
    words = ["--id", "benign (1)", "--id", "benign (2)", "--charts", tmp_path / "charts"]
    result = show(copy, "--out", tmp_path / "sheet.png", *words)
    assert result.exit_code == 1
    assert "Drew 1 image into" in result.stdout
    assert result.stderr.count("Failed: ") == 1 and "benign (1).png" in result.stderr
    assert (tmp_path / "sheet.png").is_file()
