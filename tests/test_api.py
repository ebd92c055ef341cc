from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import busi_monai

HEAVY = ("torch", "monai", "pandas", "scipy", "matplotlib", "cv2")

SNIPPET = """\
from pathlib import Path

from busi_monai import Prediction, Predictor, audit, compare, evaluate, prepare, train, verify

summary = prepare("data", "prepared", folds=5)
count: int = summary.datalist.leaks["count"]
if not verify(summary.out).ok or audit("data").failures:
    raise SystemExit(1)
run = train("prepared", "run", configs=["cpu"], epochs=3, settings={"balance": "loss"})
folder: Path = run.folder
value = evaluate(folder, ["prepared"], "evaluation", split="validation")["lesion_dice"]["value"]
prediction: Prediction = Predictor.load(folder).predict("image.png")
title: str = compare({"ours": folder}, "comparison").title
"""


@pytest.mark.parametrize(
    "code",
    ["import busi_monai", "from busi_monai.cli.main import main; main(['--help'])"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    told = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    words = [sys.executable, "-c", f"{told}\n{code}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(done.stderr.split())


@pytest.mark.parametrize("name", busi_monai.__all__)
def test_each_name_is_there_and_in_the_documentation(name: str, repository: Path) -> None:
    thing = getattr(busi_monai, name)
    assert name == "__version__" or (thing.__doc__ and "\n" in thing.__doc__)
    assert f".{name}\n" in (repository / "docs" / "api.md").read_text() or name == "__version__"


@pytest.mark.slow
def test_a_users_program_passes_mypy(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "mine.py").write_text(SNIPPET)
    config = str(repository / "pyproject.toml")
    words = ["-m", "mypy", "--config-file", config, "--follow-imports=silent"]
    done = subprocess.run(
        [sys.executable, *words, "-p", "mine"],
        cwd=tmp_path,
        env={"MYPYPATH": f"{repository}:{tmp_path}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
