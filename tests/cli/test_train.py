from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from busi_monai.cli.main import main
from busi_monai.curation import prepare_dataset
from busi_monai.curation.protocols import PrepareOptions

Train = Callable[..., Result]


@pytest.fixture
def train(phantom_prepared: Path, tiny_config: Path, tmp_path: Path) -> Train:
    """Run the command on the phantoms; ``prepared`` and ``out`` may be given."""

    def run(*more: str, prepared: Path = phantom_prepared, out: str = "run") -> Result:
        words = ["train", str(prepared), "--out", str(tmp_path / out), "--config", str(tiny_config)]
        device = [] if "--device" in more else ["--device", "cpu"]
        return CliRunner().invoke(main, [*words, *device, "-q", *more])

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


def assert_refused(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.output
    assert "Traceback" not in result.output


def test_a_run_is_trained_and_summed_up(train: Train, tmp_path: Path) -> None:
    result = train()
    assert result.exit_code == 0, result.output
    assert "Trained 2 epochs on cpu (fp32)" in result.output
    assert "best epoch" in result.output and "not a medical device" in result.output
    assert "INFO" not in result.output
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 2


def test_json_is_the_record(train: Train, tmp_path: Path) -> None:
    result = train("--json", "--epochs", "1", "--seed", "3")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout[result.stdout.index("{") :])
    assert record == json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["epochs"] == 1 and record["seed"] == 3


def test_options_reach_the_configuration(train: Train, tmp_path: Path) -> None:
    result = train(
        "--epochs", "1", "--batch-size", "4", "--image-size", "48", "--patience", "3",
        "--set", "learning_rate=2e-3", "--set", "train#trainer#non_blocking=true",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    import yaml

    config = yaml.safe_load((tmp_path / "run/configs/train.yaml").read_text(encoding="utf-8"))
    assert config["image_size"] == [48, 48] and config["batch_size"] == 4
    assert config["patience"] == 3 and config["learning_rate"] == 0.002
    assert config["train"]["trainer"]["non_blocking"] is True


def test_further_datasets_are_trained_on(
    train: Train, phantom_prepared: Path, other_prepared: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from busi_monai.curation import load_datalist
    from busi_monai.training import read_training_images

    monkeypatch.chdir(other_prepared.parent)
    result = train("--epochs", "1", "--extra", other_prepared.name)
    assert result.exit_code == 0, result.output
    trained = [
        item["sha256"]
        for folder in (phantom_prepared, other_prepared)
        for item in load_datalist(folder).training
    ]
    assert read_training_images(tmp_path / "run") == set(trained)
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["extra_datalist_sha256"] == [load_datalist(other_prepared).sha256]
    monkeypatch.chdir(tmp_path)
    assert train("--epochs", "1", "--resume").exit_code == 0
    assert_refused(
        train("--epochs", "1", "--resume", "--set", "extra_dataset_dir=[]"),
        "started with other training images",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--extra", "nowhere"], ["nowhere", "busi-monai prepare"]),
        (["--set", "initial_run=nowhere"], ["no bundle or run 'nowhere'"]),
        (["--set", "pooling=max"], ["pooling must be one of average, average_max"]),
        (["--set", "pooling=mask", "--set", "seg_weight=0"], ["without a mask head"]),
        (["--config", "huge"], ["no configuration 'huge'", "smoke"]),
        (["--set", "learning_rat=1"], ["unknown configuration key 'learning_rat'"]),
        (["--set", "train#trainee#amp=true"], ["unknown configuration key"]),
        (["--set", "learning_rate"], ["expected key=value"]),
        (["--set", "encoder=resnet19"], ["resnet19", "resnet18"]),
        (["--set", "lr_schedule=triangle"], ["triangle", "one_cycle"]),
        (["--set", "segmentation_loss=mse"], ["mse", "dice_ce"]),
        (["--set", "select_by=f1"], ["select_by must be one of"]),
        (["--set", "classes=[benign, cyst]"], ["cyst"]),
        (["--set", "image_size=[33, 32]"], ["divisible by 2", "[34, 32]"]),
        (["--set", "max_epochs=0"], ["at least one epoch"]),
        (["--set", "precision=fp16"], ["fp16 needs a GPU"]),
        (["--device", "gpu"], ["unknown device 'gpu'"]),
        (["--fold", "0"], ["has no folds"]),
        (["--model", "nothing"], ["no bundle or run 'nothing'"]),
        (["--tracking", "wandb"], ["no configuration 'wandb'"]),
        (["--epochs", "0"], ["--epochs"]),
    ],
)
def test_wrong_options_are_refused_before_a_folder_is_made(
    train: Train, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    result = train(*options)
    if options[0] == "--set" and options[1].startswith("select_by"):
        # the scores are made with the evaluator, when the folder is there already
        assert_refused(result, *words)
        return
    assert_refused(result, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_no_silent_fall_back(train: Train, tmp_path: Path) -> None:
    assert_refused(train("--device", "cuda"), "sees no CUDA device", "--device cpu")
    assert not (tmp_path / "run").exists()


def test_a_typo_in_an_overlay_is_named(train: Train, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("max_epoch: 3\n", encoding="utf-8")
    assert_refused(train("--config", str(overlay)), "unknown configuration key 'max_epoch'")
    overlay.write_text("- 1\n", encoding="utf-8")
    assert_refused(train("--config", str(overlay)), "expected a mapping")
    overlay.write_text("a: [", encoding="utf-8")
    assert_refused(train("--config", str(overlay)), "is not YAML")


def test_a_dataset_that_is_not_there(train: Train, tmp_path: Path) -> None:
    result = train(prepared=tmp_path / "nowhere")
    assert_refused(result, "nowhere", "busi-monai prepare")
    (tmp_path / "empty").mkdir()
    assert_refused(train(prepared=tmp_path / "empty"), "datalist.json does not exist")
    assert not (tmp_path / "run").exists()


def test_a_image_that_is_gone_or_damaged(
    train: Train, phantom_prepared: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(phantom_prepared, copy)
    victim = copy / json.loads((copy / "datalist.json").read_text("utf-8"))["training"][0]["image"]
    victim.write_bytes(victim.read_bytes()[:100])
    result = train(prepared=copy)
    assert_refused(result, victim.name, code=1)
    victim.unlink()
    assert_refused(train(prepared=copy), victim.name, "is gone")
    assert not (tmp_path / "run").exists()


def test_a_fold_must_be_named_and_exist(train: Train, phantom_busi: Path, tmp_path: Path) -> None:
    folds = tmp_path / "folds"
    prepare_dataset(phantom_busi, folds, PrepareOptions(folds=3))
    assert_refused(train(prepared=folds), "has 3 folds; say which to report: 0 to 2")
    assert_refused(train("--fold", "3", prepared=folds), "has the folds 0 to 2")
    assert not (tmp_path / "run").exists()
    result = train("--fold", "1", "--epochs", "1", prepared=folds)
    assert result.exit_code == 0, result.output


def test_a_folder_that_is_not_empty_is_left_alone(train: Train, tmp_path: Path) -> None:
    assert train("--epochs", "1").exit_code == 0
    before = snapshot(tmp_path / "run")
    assert_refused(train(), "not empty", "--resume")
    assert snapshot(tmp_path / "run") == before


def test_resuming_a_finished_run_changes_no_result(train: Train, tmp_path: Path) -> None:
    assert train().exit_code == 0
    before = snapshot(tmp_path / "run")
    assert train("--resume").exit_code == 0
    after = snapshot(tmp_path / "run")
    for name in ("history.csv", "models/model.pt", "models/last.pt", "settings.json", "run.json"):
        assert after[name] == before[name], name
    assert_refused(train("--resume", "--epochs", "5"), "max_epochs was 2, now 5")


def test_a_pickled_checkpoint_is_refused(train: Train, tmp_path: Path) -> None:
    assert train().exit_code == 0
    torch.save({"network": Path("x")}, tmp_path / "run" / "models" / "last.pt")
    assert_refused(train("--resume"), "last.pt is refused", code=1)


def in_a_process(words: list[str], limit: int | None = None) -> list[str]:
    # a shell's background job, such as a server's CI, ignores Ctrl-C, and its children with it
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from busi_monai.cli.main import main; main(prog_name='busi-monai')"
    if limit is not None:
        code = (
            f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));{code}"
        )
    return [sys.executable, "-c", code, *words]


def test_a_full_disk_leaves_what_was_written(
    train: Train, phantom_prepared: Path, tiny_config: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from busi_monai.training import checkpoints

    saved = []

    def full_after_the_first_epoch(state: object, stream: object) -> None:
        saved.append(state)
        if len(saved) > 2:
            stream.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, stream)

    save = torch.save
    monkeypatch.setattr(checkpoints.torch, "save", full_after_the_first_epoch)
    result = train("--epochs", "6")
    assert_refused(result, "No space left on device", "resume the run", code=1)
    monkeypatch.undo()
    models = tmp_path / "run" / "models"
    assert {path.name for path in models.iterdir()} == {"model.pt", "last.pt"}
    assert torch.load(models / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert train("--resume", "--epochs", "6").exit_code == 0
    assert pd.read_csv(tmp_path / "run" / "history.csv")["epoch"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
def test_a_file_that_the_system_refuses_is_named(
    phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    words = ["train", str(phantom_prepared), "--out", str(tmp_path / "run"), "--config"]
    words += [
        str(tiny_config),
        "--device",
        "cpu",
        "-q",
        "--set",
        "encoder_options={widths: [16, 32]}",
    ]
    done = subprocess.run(
        in_a_process(words, limit=60_000), capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert not list((tmp_path / "run" / "models").glob("*"))


@pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
@pytest.mark.slow
def test_ctrl_c_can_be_resumed(
    train: Train, phantom_prepared: Path, tiny_config: Path, tmp_path: Path
) -> None:
    words = ["train", str(phantom_prepared), "--out", str(tmp_path / "run"), "--config"]
    words += [
        str(tiny_config),
        "--device",
        "cpu",
        "-q",
        "--epochs",
        "2000",
        "--set",
        "lr_schedule=constant",
    ]
    process = subprocess.Popen(in_a_process(words), stderr=subprocess.PIPE, text=True)
    last = tmp_path / "run" / "models" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "Interrupted" in messages and "Traceback" not in messages
    assert not list((tmp_path / "run").rglob(".partial-*"))
    epoch = torch.load(last, weights_only=True)["progress"]["epoch"]
    rows = pd.read_csv(tmp_path / "run" / "history.csv")["epoch"].tolist()
    assert rows[-1] in {epoch, epoch + 1}
