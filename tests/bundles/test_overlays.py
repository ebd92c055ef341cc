"""Every overlay in ``configs/`` trains, measures and predicts through both doors."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from monai.bundle import ConfigParser
from monai.bundle.scripts import run as monai_bundle_run

from busi_monai.cli.main import main
from busi_monai.files import read_json
from busi_monai.networks import network_cost
from busi_monai.operating import load_operating_point
from busi_monai.shipped import find_bundle, shipped_configs

pytestmark = pytest.mark.xdist_group("overlays")

CONFIGS = find_bundle() / "configs"
QUICK = {"image_size": [64, 64], "max_epochs": 1, "batch_size": 6, "precision": "fp32"}


def call(*words: object) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def config_of(name: str) -> ConfigParser:
    files = [CONFIGS / "train.yaml", shipped_configs()[name]]
    return ConfigParser(ConfigParser.load_config_files(files))


def network_of(name: str) -> torch.nn.Module:
    return config_of(name).get_parsed_content("network_def")


@pytest.mark.parametrize("name", [n for n in shipped_configs() if not n.startswith("classic")])
def test_an_overlays_network_has_the_heads_that_are_trained(name: str) -> None:
    parser = config_of(name)
    network = network_of(name).eval()
    side = 2 * network.stride
    with torch.no_grad():
        outputs = network(torch.rand(1, 1, side, side))
    weights = {"seg": parser["seg_weight"], "cls": parser["cls_weight"]}
    assert set(outputs) == {head for head, weight in weights.items() if weight > 0}
    if "cls" in outputs:
        assert outputs["cls"].shape == (1, len(parser["classes"]))


def test_the_classic_system_is_the_published_one() -> None:
    network = network_of("classic_multitask_unet").eval()
    parameters = {
        part: sum(p.numel() for p in getattr(network, part).parameters())
        for part in ("encoder", "decoder", "seg_head", "cls_head")
    }
    assert parameters["cls_head"] == 656_899
    assert parameters["encoder"] + parameters["decoder"] + parameters["seg_head"] == 31_042_369
    shapes: list[tuple[int, ...]] = []
    for level in network.encoder.levels:
        level.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    for level in network.decoder.levels:
        level.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        outputs = network(torch.rand(1, 1, 256, 256))
    down = [(1, 64 * 2**level, 256 // 2**level, 256 // 2**level) for level in range(5)]
    assert shapes == [*down, *down[-2::-1]]
    assert outputs["seg"].shape == (1, 1, 256, 256) and outputs["cls"].shape == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_configs())
def test_an_overlay_works_through_both_doors(
    name: str, phantom_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    settings = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
    call("train", phantom_prepared, "--out", ours, "--config", name, "--device", "cpu", *settings)
    monkeypatch.chdir(tmp_path)
    monai_bundle_run(
        run_id="training",
        config_file=[str(CONFIGS / "train.yaml"), str(shipped_configs()[name])],
        dataset_dir=str(phantom_prepared),
        output_dir="theirs",
        device_name="cpu",
        **QUICK,
    )
    states = [torch.load(run / "models" / "model.pt", weights_only=True) for run in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())

    call(
        "evaluate", ours, phantom_prepared, "--out", "measured", "--device", "cpu", "--resamples", 5
    )
    images = phantom_prepared / "images"
    call("predict", images, "--run", ours, "--out", "predicted", "--device", "cpu", "-q")
    for run_id, config, folder in (
        ("evaluating", "evaluate", phantom_prepared),
        ("inference", "inference", images),
    ):
        monai_bundle_run(
            run_id=run_id,
            config_file=str(theirs / "configs" / f"{config}.yaml"),
            dataset_dir=str(folder),
            output_dir=f"their_{config}",
            device_name="cpu",
        )
    for one, other in (("measured", "their_evaluate"), ("predicted", "their_inference")):
        tables = [pd.read_csv(Path(folder) / "predictions.csv") for folder in (one, other)]
        columns = [c for c in tables[0] if c not in {"seconds", "image"}]
        pd.testing.assert_frame_equal(
            tables[0][columns].sort_values("id", ignore_index=True),
            tables[1][columns].sort_values("id", ignore_index=True),
        )
        for mask in (Path(one) / "masks").iterdir():
            assert mask.read_bytes() == (Path(other) / "masks" / mask.name).read_bytes()
    metrics = read_json("measured/metrics.json")
    classes = load_operating_point(ours / "operating.json").classes
    assert set(metrics.get("per_class", {})) == set(classes)
    assert metrics["seen_in_training"] == 0


def test_the_stated_costs_are_those_of_the_networks() -> None:
    page = (Path(__file__).parents[2] / "docs" / "systems.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+)×(\d+) \| ([\d,]+) \| ([\d.]+) \|$", page, re.M)
    assert len(rows) == 10
    for name, height, width, parameters, flops in rows:
        size = (int(height), int(width))
        assert tuple(config_of(name)["image_size"]) == size
        with torch.device("meta"):
            cost = network_cost(network_of(name), size)
        assert f"{cost['parameters']:,}" == parameters, name
        assert f"{cost['flops'] / 1e9:.1f}" == flops, name
