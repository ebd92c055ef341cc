"""What a resumed run takes over of the settings given with ``--resume``, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from monai.bundle import ConfigWorkflow

from busi_monai.bundle.configurations import read_configuration, write_configuration
from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.cli.main import main
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.training import train_bundle
from busi_monai.training.resuming import Sessions, earlier_sessions, refuse_other_settings

SETTINGS = {"device_name": "cpu", "max_epochs": 3, "lr_schedule": "constant", "fold": 0}


@pytest.fixture(scope="module")
def begun(folds: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its second epoch of three; not to be changed."""
    out = tmp_path_factory.mktemp("begun") / "run"

    def interrupt(epoch: int, figures: dict[str, float]) -> bool:
        if epoch == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train_bundle([folds], out, configs=[tiny_config], overrides=SETTINGS, observe=interrupt)
    return out


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun, tmp_path / "run")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


def resume(folds: Path, run: Path, *more: object) -> Result:
    words = ["train", folds, "--out", run, "--resume", "-q", *more]
    return CliRunner().invoke(main, [*map(str, words)])


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.output


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--set", "median_filter=3"], "median_filter was 0, now 3"),
        (["--set", "learning_rate=1e-6"], "learning_rate was 0.01, now 1e-06"),
        (["--set", "train::trainer::amp=true"], "train#trainer#amp was '$@precision_choice"),
        (["--set", "encoder_options={widths: [6, 12]}"], "widths was [4, 8], now [6, 12]"),
        (["--set", "fold=null"], "fold was 0, now None"),
        (["--fold", "1"], "fold was 0, now 1"),
        (["--seed", "1"], "seed was 0, now 1"),
        (["--batch-size", "2"], "batch_size was 6, now 2"),
        (["--image-size", "48"], "image_size was [32, 32], now [48, 48]"),
        (["--config", "smoke"], "image_size was [32, 32], now [64, 64]"),
        (["--model", DEFAULT_BUNDLE], "image_size was [32, 32], now [256, 256]"),
        (["--model", "breast_ultrasound_two_stage"], "was trained in one go"),
    ],
)
def test_another_setting_is_refused_by_name(
    more: list[str], told: str, begun: Path, folds: Path
) -> None:
    before = snapshot(begun)
    assert_refused(resume(folds, begun, *more), str(begun), told, "out to resume it")
    assert snapshot(begun) == before


def test_other_overlays_and_bundles_are_refused_by_what_they_change(
    begun: Path, folds: Path, tiny_config: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("normalisation: zscore\n", encoding="utf-8")
    refused = resume(folds, begun, "--config", overlay)
    assert_refused(refused, "normalisation was 'unit', now 'zscore'")
    bundle = tmp_path / "bundle"
    shutil.copytree(find_bundle() / "configs", bundle / "configs")
    train = read_configuration(bundle / "configs" / "train.yaml")
    write_configuration(bundle / "configs" / "train.yaml", {**train, "dropout": 0.1})
    words = ["--config", tiny_config, "--set", "lr_schedule=constant", "--fold", "0"]
    refused = resume(folds, begun, "--model", bundle, *words)
    assert_refused(refused, "otherwise: dropout was 0.3, now 0.1. The settings are those of")
    assert "without --model" in refused.output


def test_what_may_change_takes_effect_and_is_recorded(run: Path, folds: Path) -> None:
    settings = read_configuration(run / "configs" / "train.yaml")
    more = ["--set", "learning_rate=0.01", "--fold", "0"]  # equal to the run's own
    result = resume(
        folds, run, "--epochs", "2", "--patience", "7", "--set", "precision=bf16", *more
    )
    assert result.exit_code == 0, result.output
    assert "Trained 2 epochs on cpu (fp32), then cpu (bf16)" in result.output
    assert pd.read_csv(run / "history.csv")["epoch"].tolist() == [1, 2]
    changed = {"max_epochs": 2, "patience": 7, "precision": "bf16"}
    assert read_configuration(run / "configs" / "train.yaml") == {
        **settings, **changed, "output_dir": str(run),
    }  # fmt: skip
    record = read_json(run / "run.json")
    assert (record["max_epochs"], record["precision"]["name"]) == (2, "bf16")
    first, second = record["sessions"]
    assert first["interrupted"] and first["epochs"] == 1 and second["epochs"] == 2
    assert (first["precision"]["name"], first["settings"]["max_epochs"]) == ("fp32", 3)
    assert second["precision"]["name"] == "bf16" and second["device"]["name"] == "cpu"
    assert second["settings"] == {
        **changed, "device_name": "cpu", "num_workers": 0, "cache_dir": None,
    }  # fmt: skip
    assert first["settings"].keys() == second["settings"].keys()
    assert not (run / "sessions.json").exists()

    before = snapshot(run)  # nothing is left to train: what is given now has no effect
    result = resume(folds, run, "--set", "precision=fp32", "--epochs", "1")
    assert result.exit_code == 0, result.output
    after = snapshot(run)
    for name in ("run.json", "configs/train.yaml", "history.csv", "models/last.pt"):
        assert after[name] == before[name], name
    assert before.keys() == after.keys()


def test_a_run_that_is_ended_without_a_further_epoch_tells_how_the_last_one_was_trained(
    run: Path, folds: Path
) -> None:
    result = resume(folds, run, "--epochs", "1", "--set", "precision=bf16")
    assert result.exit_code == 0, result.output
    record = read_json(run / "run.json")
    assert record["precision"]["name"] == "fp32"
    assert record["epochs"] == record["max_epochs"] == 1
    assert [session["epochs"] for session in record["sessions"]] == [1, 1]
    assert read_configuration(run / "configs" / "train.yaml")["max_epochs"] == 1


def test_the_same_bundle_with_all_its_settings_passes(
    run: Path, folds: Path, tiny_config: Path
) -> None:
    words = ["--model", DEFAULT_BUNDLE, "--config", tiny_config, "--fold", "0", "--epochs", "1"]
    result = resume(folds, run, *words, "--set", "lr_schedule=constant")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("resumed", [True, "true"])
def test_monais_own_command_is_refused_alike(resumed: object, begun: Path, tmp_path: Path) -> None:
    def workflow(**more: object) -> ConfigWorkflow:
        return ConfigWorkflow(
            str(begun / "configs" / "train.yaml"), logging_file=False, resume=resumed, **more
        )

    with pytest.raises(RuntimeError) as refused:
        workflow(median_filter=3).initialize()
    message = str(refused.value.__cause__)
    assert "was started otherwise: median_filter was 0, now 3" in message
    assert "--model" not in message


@pytest.mark.parametrize(
    ("schedule", "begun", "refused"),
    [("one_cycle", True, True), ("one_cycle", False, False), ("plateau", True, False)],
)
def test_the_length_may_change_where_the_schedule_does_not_depend_on_it(
    schedule: str, begun: bool, refused: bool, tmp_path: Path
) -> None:
    before, now = ({"lr_schedule": schedule, "max_epochs": epochs} for epochs in (3, 5))
    if refused:
        with pytest.raises(InputError, match="max_epochs was 3, now 5"):
            refuse_other_settings(tmp_path, before, now, begun=begun)
    else:
        refuse_other_settings(tmp_path, before, now, begun=begun)


def write_history(run: Path, *seconds: int) -> None:
    rows = "".join(f"{epoch},{time}\n" for epoch, time in enumerate(seconds, start=1))
    (run / "history.csv").write_text(f"epoch,seconds\n{rows}", encoding="utf-8")


def test_sessions_are_those_recorded_and_what_was_killed(tmp_path: Path) -> None:
    assert earlier_sessions(tmp_path) == []
    finished = {"command": ["train"], "seconds": 7.5, "epochs": 1}
    write_json(tmp_path / "run.json", {"seconds": 7.5, "sessions": [finished]})
    write_history(tmp_path, 7, 3, 4)
    killed = {"interrupted": True, "epochs": 3, "seconds": 7.0}
    assert earlier_sessions(tmp_path) == [finished, killed]


def test_sessions_killed_in_turn_keep_their_own_settings(tmp_path: Path) -> None:
    """The third one trains nothing before it is killed, and leaves no session."""
    for epochs, precision in enumerate(("fp32", "bf16", "fp16"), start=1):
        Sessions(tmp_path).begin(tmp_path, {"precision": precision}, resumed=epochs > 1)
        write_history(tmp_path, *[5] * min(epochs, 2))
    killed = {"interrupted": True, "seconds": 5.0}
    assert earlier_sessions(tmp_path) == [
        {"precision": "fp32", "epochs": 1, **killed},
        {"precision": "bf16", "epochs": 2, **killed},
    ]


def test_a_session_without_an_epoch_is_idle(tmp_path: Path) -> None:
    write_history(tmp_path, 7)
    sessions = Sessions(tmp_path)
    sessions.begin(tmp_path, {}, resumed=True)
    assert sessions.idle
    write_history(tmp_path, 7, 8)
    assert not sessions.idle and sessions.all(epochs=2)[1:] == [{"epochs": 2}]
