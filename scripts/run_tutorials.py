"""Run the notebooks of ``docs/tutorials`` and keep their outputs in them.

Each runs in a temporary folder, on phantoms unless its parameters say otherwise.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

TUTORIALS = Path(__file__).resolve().parent.parent / "docs" / "tutorials"
LIMIT_SECONDS = 900
WIDEST = 800
COLOURS = 64


def main() -> None:
    """Run all notebooks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default all")
    options = parser.parse_args()
    for path in options.notebooks or sorted(TUTORIALS.glob("*.ipynb")):
        started = time.monotonic()
        run_notebook(path)
        print(f"{path.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def run_notebook(path: Path) -> None:
    """Run one notebook and write its outputs into it."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=LIMIT_SECONDS,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # warnings and logs name folders of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = shrunk(output.data["image/png"])
    nbformat.write(notebook, path)


def shrunk(encoded: str) -> str:
    """Return a base64 PNG no wider than the page and of few colours, to keep the notebook small."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    if image.width > WIDEST:
        height = round(image.height * WIDEST / image.width)
        image = image.resize((WIDEST, height), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    image.quantize(COLOURS).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    main()
