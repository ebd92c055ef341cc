"""A network of the user's own module: whatever comes of its training imports the module, too."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from monai.bundle import ConfigParser, ConfigWorkflow

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import current_training, imports_of
from busi_monai.cli.main import main
from busi_monai.errors import InputError
from busi_monai.evaluation import read_predictions
from busi_monai.files import read_json, write_json
from busi_monai.inference import Predictor, write_ensemble
from busi_monai.networks import ENCODERS
from busi_monai.training import assemble_stages, run_evaluation, train_bundle
from busi_monai.training.release import release_weights

MODULE = """
from busi_monai.networks import ENCODERS, register_encoder
register_encoder("my_unet")(ENCODERS["unet"])
"""
IMPORT = "$import my_encoders"


def forget() -> None:
    """As in a new process."""
    sys.modules.pop("my_encoders", None)
    ENCODERS.pop("my_unet", None)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    forget()


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the user's module."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "my_encoders.py").write_text(MODULE, "utf-8")
    return folder


@pytest.fixture
def importable(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(modules))


@pytest.fixture(scope="module")
def overlay(tiny_config: Path, modules: Path) -> Path:
    config = yaml.safe_load(tiny_config.read_text("utf-8"))
    path = modules / "mine.yaml"
    path.write_text(yaml.safe_dump({**config, "encoder": "my_unet", "+imports": [IMPORT]}), "utf-8")
    return path


@pytest.fixture(scope="module")
def own_run(modules: Path, overlay: Path, phantom_prepared: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(modules))
        run = modules.parent / "own run"
        settings = {"device_name": "cpu"}
        train_bundle([phantom_prepared], run, configs=[overlay], overrides=settings)
    forget()
    return run


@pytest.fixture
def image(phantom_busi: Path) -> Path:
    return phantom_busi / "benign" / "benign (1).png"


def test_a_run_imports_what_its_recipe_adds_and_nothing_else(own_run: Path, tiny_run: Path) -> None:
    for name in ("inference", "evaluate"):
        usual = imports_of(Bundle(tiny_run).config(name))
        assert imports_of(Bundle(own_run).config(name)) == [*usual, IMPORT]


@pytest.mark.usefixtures("importable")
def test_predict_evaluate_and_monai_find_the_encoder(
    own_run: Path, image: Path, phantom_prepared: Path, tmp_path: Path
) -> None:
    words = ["predict", str(image), "--model", str(own_run), "--device", "cpu", "-q"]
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "predictions")])
    assert result.exit_code == 0, result.output
    forget()
    run_evaluation(own_run, [phantom_prepared], tmp_path / "evaluation")
    assert read_json(tmp_path / "evaluation" / "metrics.json")["lesion_dice"]["n"] > 0
    forget()
    workflow = ConfigWorkflow(
        config_file=str(own_run / "configs" / "inference.yaml"),
        logging_file=False,
        workflow_type="infer",
        dataset_dir=str(image.parent),
        output_dir=str(tmp_path / "monai"),
        device_name="cpu",
    )
    for step in (workflow.initialize, workflow.run, workflow.finalize):
        step()
    ours, theirs = (read_predictions(tmp_path / name) for name in ("predictions", "monai"))
    row = theirs.set_index("id").loc["benign (1)"]
    assert row["p_benign"] == pytest.approx(ours["p_benign"][0], abs=2e-6)


@pytest.mark.usefixtures("importable")
def test_an_ensemble_imports_what_any_member_does(
    own_run: Path, tiny_run: Path, image: Path, tmp_path: Path
) -> None:
    ensemble = write_ensemble([tiny_run, own_run], tmp_path / "ensemble")
    for name in ("inference", "evaluate"):
        assert imports_of(Bundle(ensemble).config(name)).count(IMPORT) == 1
    forget()
    assert Predictor.load(ensemble, device="cpu").predict(image).probabilities


@pytest.mark.usefixtures("importable")
def test_two_stages_import_what_either_does(
    two_stage_run: Path, image: Path, tmp_path: Path
) -> None:
    runs = [two_stage_run / "stages" / name for name in ("segmentation", "classification")]
    runs[0] = Path(shutil.copytree(runs[0], tmp_path / "segmentation"))
    for name in ("inference", "evaluate"):
        path = Bundle(runs[0]).config_file(name)
        config = yaml.safe_load(path.read_text("utf-8"))
        config["network_def"]["encoder"] = "my_unet"
        config["imports"].append(IMPORT)
        path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    assemble_stages(*runs, tmp_path / "both")
    forget()
    assert Predictor.load(tmp_path / "both", device="cpu").predict(image).probabilities


@pytest.mark.usefixtures("importable")
def test_a_release_needs_a_bundle_that_imports_it(
    own_run: Path, image: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(own_run, tmp_path / "run"))
    told = {"images": 20, "part": "validation", "same_network": True}
    write_json(run / "settings.json", {**read_json(run / "settings.json"), "calibration": told})
    bundle = Path(shutil.copytree(run, tmp_path / "bundle"))
    (bundle / "models" / "model.pt").unlink()
    release_weights(run, bundle)
    assert Predictor.load(bundle, device="cpu").predict(image).probabilities
    path = Bundle(bundle).config_file("inference")
    path.write_text(path.read_text("utf-8").replace(f"- {IMPORT}\n", ""), "utf-8")
    with pytest.raises(InputError, match=r"inference\.yaml does not import .* add \$import my_enc"):
        release_weights(run, bundle)


@pytest.mark.parametrize("command", ["predict", "evaluate", "train", "ensemble"])
def test_a_module_that_is_not_found_is_named_with_the_file(
    own_run: Path, overlay: Path, image: Path, phantom_prepared: Path, tmp_path: Path, command: str
) -> None:
    words, file = {
        "predict": ([image, "--model", own_run], own_run / "configs" / "inference.yaml"),
        "evaluate": ([own_run, phantom_prepared], own_run / "configs" / "evaluate.yaml"),
        "train": ([phantom_prepared, "--config", overlay], overlay),
        "ensemble": ([own_run, own_run / "."], own_run / "configs" / "inference.yaml"),
    }[command]
    if command == "ensemble":
        words[1] = Path(shutil.copytree(own_run, tmp_path / "second"))
    out = ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [command, *map(str, words), *out])
    assert result.exit_code == 2, result.output
    assert f"{file} asks for 'import my_encoders'" in result.output
    assert "No module named 'my_encoders'" in result.output and "PYTHONPATH" in result.output
    assert not (tmp_path / "out").exists()


def test_plain_monai_says_what_an_unknown_encoder_lacks(own_run: Path) -> None:
    parser = ConfigParser(Bundle(own_run).config("inference"))
    with pytest.raises(RuntimeError) as refused:
        parser.get_parsed_content("network_def")
    assert "name its folder in PYTHONPATH" in str(refused.value.__cause__)


def test_a_network_class_that_is_not_found_is_named(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = Bundle(run).config_file("inference")
    text = path.read_text("utf-8").replace("busi_monai.networks.MultiTaskUNet", "my_encoders.Mine")
    path.write_text(text, "utf-8")
    told = r"inference\.yaml does not work: .*my_encoders\.Mine"
    for use in (Bundle(run).network, lambda: Predictor.load(run, device="cpu")):
        with pytest.raises(InputError, match=told):
            use()


def test_a_run_of_version_0_1_0_keeps_what_it_added(repository: Path) -> None:
    path = repository / "tests" / "bundles" / "version_0_1_0" / "train.yaml"
    config = yaml.safe_load(path.read_text("utf-8"))
    config["imports"].append(IMPORT)
    assert IMPORT in imports_of(current_training(config))
