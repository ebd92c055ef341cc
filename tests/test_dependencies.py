"""What ``pyproject.toml`` declares and README.md shows, against what is there."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = {
    "cv2": "opencv-python-headless", "ignite": "pytorch-ignite", "lazy_loader": "lazy-loader",
    "nrrd": "pynrrd", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
"""Modules that are called otherwise than what installs them."""
BROUGHT = {"anyio": "fastapi", "starlette": "fastapi"}
"""Modules that a declared package is built on."""
ELSEWHERE = {"fire": "python -m monai.bundle", "tensorboard": "torch.utils.tensorboard"}
"""Core dependencies that others import for us."""
NOT_THE_MAIN_JOB = {"experiments", "label_app", "phantoms", "serving"}
SEVERAL_COMMANDS = {"pebble"}  # cross-validate, tune and serve
APART = ("monailabel",)  # installed without what it requires, see docs/monai_label.md


def imports(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """Yield the packages that a file imports, or those that it imports when it is imported."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            package = name.partition(".")[0]
            if package not in sys.stdlib_module_names and package not in {"busi_monai", *APART}:
                package = BROUGHT.get(package, package)
                yield MODULES.get(package, package).lower()


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def core(project: dict) -> set[str]:
    return names(project["dependencies"])


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", each)[0].lower() for each in requirements}


@pytest.fixture(scope="module")
def files(repository: Path) -> list[Path]:
    return sorted((repository / "busi_monai").rglob("*.py"))


def test_what_is_imported_is_declared(project: dict, core: set[str], files: list[Path]) -> None:
    extras = names([each for part in project["optional-dependencies"].values() for each in part])
    assert {name for path in files for name in imports(path)} <= core | extras


def test_the_main_job_needs_every_core_dependency(
    core: set[str], files: list[Path], repository: Path
) -> None:
    rooms = [(path, path.relative_to(repository / "busi_monai").parts[0]) for path in files]
    used = {n for path, room in rooms if room not in NOT_THE_MAIN_JOB for n in imports(path)}
    assert core == (used & core) | set(ELSEWHERE) | SEVERAL_COMMANDS


def test_extras_are_imported_late(core: set[str], files: list[Path], repository: Path) -> None:
    """Only the rooms of one extra import it at once: nothing else loads these."""
    extra = ("busi_monai/label_app", "busi_monai/serving")
    for path in files:
        if not path.relative_to(repository).as_posix().startswith(extra):
            assert set(imports(path, at_once=True)) <= core, path


@pytest.mark.parametrize(
    ("words", "extra", "modules"),
    [
        (["serve"], "web", ["fastapi", "starlette", "anyio", "uvicorn", "nicegui"]),
        (["tune", ".", "--space", "space.yaml", "--out", "out"], "tune", ["optuna"]),
    ],
)
def test_a_command_asks_for_its_extra(
    tmp_path: Path, words: list[str], extra: str, modules: list[str]
) -> None:
    (tmp_path / "space.yaml").touch()
    without = f"import sys; sys.modules.update(dict.fromkeys({modules}))"
    script = f"{without}; from busi_monai.cli.main import main; main()"
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'busi-monai[{extra}]'" in done.stderr


def test_extras_are_named_where_they_are_told_of(
    project: dict, files: list[Path], repository: Path
) -> None:
    named = {
        n for path in files for n in re.findall(r"busi-monai\[(\w+)\]", path.read_text("utf-8"))
    }
    assert named == set(project["optional-dependencies"]) - {"dev", "docs", "label", "notebooks"}
    listed = (repository / "docs" / "README.md").read_text("utf-8")
    assert named == set(re.findall(r"`\[(\w+)\]`", listed))


def test_the_wheel_test_runs_the_commands_of_readme(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    commands = importlib.import_module("wheel_test").readme_commands()
    words = {command.split()[1] for command, _ in commands if command.startswith("busi-monai")}
    assert words >= {"audit", "evaluate", "predict", "prepare", "serve", "train", "verify"}
    assert {extra for _, extra in commands} == {"", "dicom", "web"}
    assert any("monai.bundle run inference" in command for command, _ in commands)
    assert any("Predictor.load()" in command for command, _ in commands)
    assert not any("leakfree-v1" in command or "make " in command for command, _ in commands)
