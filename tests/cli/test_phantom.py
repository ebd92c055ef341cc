from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.datasets import READERS, read_dataset
from busi_monai.io.images import read_image
from busi_monai.phantoms import planted_defects


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["phantom", *(str(word) for word in arguments)])


def test_makes_a_dataset(tmp_path: Path) -> None:
    out = tmp_path / "with space" / "phantoms (1)"

    result = run(out, "--cases", 4, "--seed", 7, "--size", "40x56")

    assert result.exit_code == 0, result.output
    assert "4 phantoms (2 normal, 1 benign, 1 malignant)" in result.output
    listing = read_dataset(out)
    assert len(listing.cases) == 4
    assert read_image(listing.cases[0].image).pixels.shape == (40, 56)


@pytest.mark.parametrize("layout", [*READERS, "bus-bra"])
def test_every_layout(tmp_path: Path, layout: str) -> None:
    result = run(tmp_path / "x", "--cases", 2, "--size", "32x32", "--layout", layout)

    assert result.exit_code == 0, result.output
    assert read_dataset(tmp_path / "x").dataset == layout.replace("-", "_")


def test_defects_are_recorded(tmp_path: Path) -> None:
    result = run(tmp_path / "x", "--cases", 3, "--size", "64x64", "--defects")

    assert result.exit_code == 0, result.output
    assert "x/.defects.json" in result.output
    assert planted_defects(tmp_path / "x")["class_conflicts"]


def test_an_existing_folder_needs_overwrite(tmp_path: Path) -> None:
    options = (tmp_path / "x", "--cases", 1, "--size", "32x32")
    run(*options)

    refused = run(*options)
    replaced = run(*options, "--overwrite")

    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    assert replaced.exit_code == 0


@pytest.mark.parametrize(
    "wrong",
    [("--size", "400"), ("--size", "8x8"), ("--cases", "0"), ("--seed", "-1"), ("--layout", "x")],
)
def test_wrong_usage_exits_with_2_and_writes_nothing(tmp_path: Path, wrong: tuple) -> None:
    result = run(tmp_path / "x", *wrong)

    assert result.exit_code == 2
    assert wrong[0] in result.output or "32 px" in result.output
    assert list(tmp_path.iterdir()) == []


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    result = run(tmp_path / "x", "--cases", 1, "--size", "32x32", "-q")

    assert (result.exit_code, result.output) == (0, "")
    assert len(read_dataset(tmp_path / "x").cases) == 1
