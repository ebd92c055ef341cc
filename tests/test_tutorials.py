"""The notebooks run from top to bottom, and hold outputs that a reader can see."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parent.parent / "docs" / "tutorials").glob("*.ipynb"))


def test_there_are_four_in_reading_order() -> None:
    assert [path.name[:2] for path in TUTORIALS] == ["1_", "2_", "3_", "4_"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    shown = "".join(nbformat.writes(notebook).split())
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", shown)
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert "DATASET = None" in parameters.source
    assert path.stat().st_size < 500_000


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_a_few_phantoms(path: Path, phantom_busi: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    if "EPOCHS" in parameters.source:
        parameters.source += f"\nDATASET, EPOCHS, SIZE = {str(phantom_busi)!r}, 1, 32"
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, resources=resources).execute()
    assert (tmp_path / "tutorial").is_dir()
