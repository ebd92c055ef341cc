"""No command ever changes what it reads, or a file that it did not make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.files import file_sha256
from busi_monai.io.images import write_mask
from busi_monai.outputs import HIDDEN_RECORD

OUT = "OUT"
SMALL = ("--device", "cpu", "--no-overlays")
RESAMPLES = ("--resamples", "5")
EVALUATE = ("evaluate", "run", "prepared", "--out", OUT, *SMALL, *RESAMPLES)
TABLE = ("evaluate", "--predictions", "evaluation", "--dataset", "prepared", "--out", OUT)
COMMANDS: dict[str, tuple[str, ...]] = {
    "audit": ("audit", "data", "--out", OUT),
    "prepare": ("prepare", "data", "--out", OUT, "--ratios", "50/25/25"),
    "phantom": ("phantom", OUT, "--cases", "2", "--size", "64x64", "--defects"),
    "show": ("show", "prepared", "--charts", OUT),
    "evaluate": EVALUATE,
    "evaluate a table": (*TABLE, *RESAMPLES),
    "compare": ("compare", "evaluation", "run", "--out", OUT, *RESAMPLES),
    "ensemble": ("ensemble", "run", "other_run", "--out", OUT),
    "predict": ("predict", "data/benign", "--model", "run", "--out", OUT, *SMALL),
    "label-import": ("label-import", "studies", "--out", OUT),
}
RESUMED: dict[str, tuple[str, ...]] = {
    "train": ("train", "prepared", "--out", OUT),
    "cross-validate": ("cross-validate", "folds", "--out", OUT),
    "tune": ("tune", "prepared", "--space", "space.yaml", "--out", OUT),
    "label-app": (
        "label-app",
        "--studies",
        "studies",
        "--model",
        "run",
        "--out",
        OUT,
        "--no-start",
    ),
}
"""Commands whose folders grow, and that have no ``--overwrite``."""

HOLDS_ALL = (".", "{world}", "..", "link")
PARTS = ("prepared/images", "prepared/labels/new", "run/models", "run/configs/new")
WHOLES = ("data", "prepared", "run", "evaluation", "studies", "foreign", "data/benign")
MADE_BEFORE = {"prepare": "prepared", "evaluate": "evaluation"}
"""The command's own earlier result, which it may replace."""

World = Path


@pytest.fixture(scope="module")
def made_world(
    once: Callable, phantom_busi: Path, phantom_prepared: Path, folds: Path, tiny_run: Path
) -> Path:
    """A working folder with everything that commands read, and things of its owner's."""

    def make(world: Path) -> None:
        from busi_monai.training import run_evaluation

        for kind in ("normal", "benign", "malignant"):
            for number in range(1, 5):
                for path in (phantom_busi / kind).glob(f"{kind} ({number})*"):
                    (world / "data" / kind).mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, world / "data" / kind)
        for source, name in ((phantom_prepared, "prepared"), (folds, "folds")):
            shutil.copytree(source, world / name)
        for name in ("run", "other_run"):
            shutil.copytree(tiny_run, world / name)
        settings = {"device_name": "cpu", "resamples": 5, "overlays": False}
        for out in (world / "evaluation", world / "run" / "evaluation"):
            run_evaluation(world / "run", [world / "prepared"], out, overrides=settings)
        labels = world / "studies" / "labels" / "final"
        labels.mkdir(parents=True)
        shutil.copy(phantom_busi / "benign" / "benign (1).png", world / "studies")
        write_mask(labels / "benign (1).png", np.eye(96, 128) > 0)
        (labels / "benign (1).json").write_text('{"class": "benign"}')
        (world / "space.yaml").write_text("learning_rate: {low: 0.001, high: 0.01}\n")
        (world / "foreign" / "sub").mkdir(parents=True)
        for place in ("", "foreign", "foreign/sub", "data", "prepared", "run", "evaluation"):
            (world / place / "thesis.txt").write_text("mine")
        (world / "foreign" / "settings.json").write_text("{}")
        (world / "foreign" / "main.py").write_text("mine = True\n")

    return once("world of outputs", make)


@pytest.fixture
def world(made_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    folder = shutil.copytree(made_world, tmp_path / "above" / "world")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    return folder


def run(words: tuple[object, ...], out: object, *more: str) -> Result:
    return CliRunner().invoke(main, [str(out if word == OUT else word) for word in (*words, *more)])


def hashes(folder: Path) -> dict[Path, str]:
    return {path: file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", [*COMMANDS, *RESUMED])
def test_dangerous_places_are_refused_whatever_the_flags(world: World, name: str) -> None:
    words = (COMMANDS | RESUMED)[name]
    flags = ("--overwrite",) if name in COMMANDS else ()
    before = hashes(world.parent)
    for place in {*HOLDS_ALL, *PARTS, *WHOLES} - {MADE_BEFORE.get(name)}:
        out = world.parent.parent / "link" if place == "link" else place.format(world=world)
        result = run(words, out, *flags)
        assert result.exit_code == 2, (place, result.output, result.exception)
        named = str(out) in result.output or str(Path(out).absolute()) in result.output
        assert named and "--overwrite" not in result.output, (place, result.output)
        assert any(word in result.output for word in ("choose", "remove it")), result.output
        assert hashes(world.parent) == before, place


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_own_result_is_replaced_and_nothing_else(world: World, name: str) -> None:
    words, out = COMMANDS[name], world / "out"
    before = hashes(world)
    first = run(words, out)
    assert first.exit_code == 0, first.output
    assert hashes(world).items() > before.items()
    again = run(words, out)
    assert again.exit_code == 2 and "pass --overwrite" in again.output
    record = out / (HIDDEN_RECORD if name == "phantom" else "run.json")
    made = json.loads(record.read_text("utf-8"))
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert made["state"] == "complete" and set(made["made"]["files"]) == files
    inner = max(files, key=lambda file: file.count("/"))
    own = [out / "thesis.txt", out / "sub" / "thesis.txt", (out / inner).parent / "mine.txt"]
    (out / "sub").mkdir()
    for path in own:
        path.write_text("mine")
    kept = before | hashes(out / "sub") | {path: file_sha256(path) for path in own}
    old = (out / inner).stat().st_ino, record.stat().st_ino
    replaced = run(words, out, "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    assert "stay: " in replaced.output and "sub/thesis.txt, thesis.txt" in replaced.output
    assert kept.items() <= hashes(world).items()
    assert {path.relative_to(out).as_posix() for path in hashes(out)} == files | {
        path.relative_to(out).as_posix() for path in own
    }
    assert old != ((out / inner).stat().st_ino, record.stat().st_ino)


def test_what_was_read_from_an_own_result_stays(world: World) -> None:
    assert run(COMMANDS["predict"], "out").exit_code == 0
    before = hashes(world)
    words = ("predict", "out/masks", "--model", "run", "--out", OUT, *SMALL, "--overwrite")
    again = run(words, "out")
    assert again.exit_code == 2 and "holds" in again.output and "masks" in again.output
    table = ("evaluate", "--predictions", "evaluation", "--out", OUT, *RESAMPLES, "--overwrite")
    assert run(table, "evaluation").exit_code == 2
    assert hashes(world) == before


def test_an_evaluation_lies_in_its_run(world: World) -> None:
    before = hashes(world / "run")
    again = run(EVALUATE, "run/evaluation", "--overwrite")
    assert again.exit_code == 0, again.output
    kept = {path for path in before if "evaluation" not in path.parts}
    after = hashes(world / "run")
    assert before.keys() == after.keys() and all(before[path] == after[path] for path in kept)


def test_a_folder_that_grows_is_gone_on_with_from_within(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = ("label-app", "--studies", world / "studies", "--model", world / "run", "--no-start")
    assert run((*app, "--out", OUT), "app").exit_code == 0
    train = ("train", world / "prepared", "--resume")
    for words, place in ((app, "app"), (train, "run")):
        monkeypatch.chdir(world / place)
        result = run((*words, "--out", OUT), ".")
        assert result.exit_code == 0, result.output


def test_a_report_is_written_over_no_file_of_another_origin(world: World) -> None:
    compare = ("compare", "evaluation", "run", *RESAMPLES, "--overwrite", "--out", "out")
    refused = run((*compare, "--markdown", OUT), "thesis.txt")
    assert refused.exit_code == 2 and "was not made by this command" in refused.output
    for _ in range(2):
        assert run((*compare, "--markdown", OUT), "report.md").exit_code == 0
