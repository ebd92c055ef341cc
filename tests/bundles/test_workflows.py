"""The bundle through MONAI's own commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow

from busi_monai.bundle import Bundle
from busi_monai.bundle.shipped import find_bundle, find_config
from busi_monai.training import train_bundle

KINDS = {"train": "train", "evaluate": "infer", "inference": "infer"}
CONFIGS = find_bundle() / "configs"


def workflow_of(root: Path, name: str, **overrides: object) -> object:
    return create_workflow(
        config_file=str(root / "configs" / f"{name}.yaml"),
        workflow_type=KINDS[name],
        device_name="cpu",
        **overrides,
    )


def where(name: str, phantom_prepared: Path, out: Path) -> dict[str, str]:
    folder = phantom_prepared / "images" if name == "inference" else phantom_prepared
    return {"dataset_dir": str(folder), "output_dir": str(out)}


@pytest.mark.parametrize("name", KINDS)
def test_every_property_is_there(
    name: str, tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    workflow = workflow_of(tiny_run, name, **where(name, phantom_prepared, tmp_path / "out"))
    assert workflow.check_properties() == []
    assert workflow.bundle_root == str(tiny_run)
    assert str(workflow.device) == "cpu"
    if name == "train":
        assert workflow.max_epochs == 2 and len(workflow.train_dataset) > 10
        workflow.finalize()


@pytest.mark.parametrize("name", ["evaluate", "inference"])
def test_a_run_works_as_a_bundle_from_python(
    name: str, tiny_run: Path, phantom_prepared: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    workflow = workflow_of(tiny_run, name, **where(name, phantom_prepared, tmp_path / "out"))
    workflow.run()
    workflow.finalize()
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert len(table) == len(list((tmp_path / "out" / "masks").iterdir())) > 0
    assert (tmp_path / "out" / "metrics.json").is_file() == (name == "evaluate")


def resolved(root: Path, name: str, section: str, *overlays: Path) -> object:
    files = [*Bundle(root).config_files(name), *overlays]
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in files]))
    return parser.get_parsed_content(section, instantiate=False).get_config()


@pytest.mark.parametrize("which", ["shipped", "run"])
def test_the_configurations_agree(which: str, tiny_run: Path) -> None:
    root = find_bundle() if which == "shipped" else tiny_run
    recipe = {"train": [find_config("released")]} if which == "shipped" else {}
    networks = [resolved(root, name, "network_def", *recipe.get(name, [])) for name in KINDS]
    assert networks[0] == networks[1] == networks[2]
    configs = [Bundle(root).config(name) for name in KINDS]
    for config in configs:
        preprocessing = {
            key: value
            for key, value in config["preprocessing"].items()
            if key not in {"with_label", "clean_labels"}
        }
        assert preprocessing == configs[2]["preprocessing"]
        assert {"initialize", "run", "finalize"} <= config.keys()
    assert configs[1]["postprocessing"] == configs[2]["postprocessing"]
    steps = configs[0]["validate"]["postprocessing"]["transforms"]
    assert steps[-1] == configs[2]["postprocessing"]


def monai(*words: str, cwd: Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [*(launcher or (sys.executable,)), "-m", "monai.bundle", "run", *words]
    # sums depend on the number of threads: only with the same number are weights the same
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "models" / "model.pt", weights_only=True)


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_same_seed_gives_the_same_course(
    tiny_run: Path, tiny_config: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    again = train_bundle(
        [phantom_prepared],
        tmp_path / "run",
        configs=[tiny_config],
        overrides={"device_name": "cpu"},
    )
    assert_same_weights(tiny_run, again)
    courses = [
        pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (tiny_run, again)
    ]
    pd.testing.assert_frame_equal(*courses)


@pytest.mark.slow
def test_monais_command_trains_what_ours_trains(
    tiny_run: Path, tiny_config: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    files = f"['{CONFIGS / 'train.yaml'}','{tiny_config}']"
    done = monai(
        "training", "--config_file", files, "--dataset_dir", str(phantom_prepared),
        "--output_dir", "theirs", "--device_name", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same_weights(tiny_run, tmp_path / "theirs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run_id", "name"), [("evaluating", "evaluate"), ("inference", "inference")]
)
def test_monais_command_runs_a_run(
    run_id: str, name: str, tiny_run: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    places = where(name, phantom_prepared, tmp_path / "out")
    done = monai(
        run_id, "--config_file", str(tiny_run / "configs" / f"{name}.yaml"), "--dataset_dir",
        places["dataset_dir"], "--output_dir", places["output_dir"], cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "predictions.csv").is_file()
    if name == "inference":
        from click.testing import CliRunner

        from busi_monai.cli.main import main

        words = ["predict", places["dataset_dir"], "--model", str(tiny_run), "--device", "cpu"]
        result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "ours"), "--quiet"])
        assert result.exit_code == 0, result.output
        for mask in (tmp_path / "ours" / "masks").iterdir():
            assert mask.read_bytes() == (tmp_path / "out" / "masks" / mask.name).read_bytes()


@pytest.mark.slow
def test_two_processes_train_on_a_cpu(
    tiny_config: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    files = f"['{CONFIGS / 'train.yaml'}','{CONFIGS / 'multi_gpu_train.yaml'}','{tiny_config}']"
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
    )  # fmt: skip
    words = (
        "training", "--config_file", files, "--dataset_dir", str(phantom_prepared),
        "--output_dir", "run", "--max_epochs", "2",
    )  # fmt: skip
    done = monai(*words, cwd=tmp_path, launcher=torchrun)
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_csv(tmp_path / "run" / "history.csv")
    assert table["epoch"].tolist() == [1, 2] and table["val_loss"].notna().all()
    assert weights(tmp_path / "run")
    resumed = monai(*words, "--resume", "True", cwd=tmp_path, launcher=torchrun)
    assert resumed.returncode == 0, resumed.stderr[-3000:]


@pytest.mark.slow
def test_mlflow_tracks_offline(phantom_prepared: Path, tiny_config: Path, tmp_path: Path) -> None:
    for name in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(name, reason="the extra 'tracking' is not installed")
    from mlflow.tracking import MlflowClient

    run = train_bundle(
        [phantom_prepared],
        tmp_path / "run",
        configs=[tiny_config],
        overrides={"device_name": "cpu"},
        tracking="mlflow",
    )
    client = MlflowClient(f"sqlite:///{run / 'mlruns.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'breast_ultrasound'")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert "val_score" in tracked.data.metrics
    assert len(client.get_metric_history(tracked.info.run_id, "val_score")) == 2


@pytest.mark.slow
def test_a_killed_run_continues_as_if_never_stopped(
    phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    epochs = 25

    def command(out: str, *more: str) -> list[str]:
        code = "from busi_monai.cli.main import main; main(prog_name='busi-monai')"
        return [
            sys.executable, "-c", code, "train", str(phantom_prepared),
            "--out", str(tmp_path / out),
            "--config", str(tiny_config), "--epochs", str(epochs), "--device", "cpu", "-q", *more,
        ]  # fmt: skip

    subprocess.run(command("whole"), check=True, timeout=300)
    process = subprocess.Popen(command("parts"))
    history = tmp_path / "parts" / "history.csv"
    deadline = time.monotonic() + 200
    while not history.is_file() or len(history.read_text(encoding="utf-8").splitlines()) < 10:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert len(history.read_text(encoding="utf-8").splitlines()) < epochs + 1
    subprocess.run(command("parts", "--resume"), check=True, timeout=300)
    courses = [
        pd.read_csv(tmp_path / name / "history.csv").drop(columns="seconds")
        for name in ("whole", "parts")
    ]
    pd.testing.assert_frame_equal(*courses)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    states = [
        torch.load(tmp_path / name / "models" / "last.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    assert states[0]["progress"] == states[1]["progress"]
    for name, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][name])
