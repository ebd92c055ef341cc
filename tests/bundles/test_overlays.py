"""Every overlay in ``configs/`` builds its network, trains and is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from monai.bundle import ConfigParser

from busi_monai.bundle.shipped import find_bundle, shipped_configs
from busi_monai.cli.main import main
from busi_monai.files import read_json
from busi_monai.networks import network_cost
from busi_monai.settings import load_settings

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
def test_an_overlay_trains_and_is_measured(
    name: str, phantom_prepared: Path, tmp_path: Path
) -> None:
    run, measured = tmp_path / "run", tmp_path / "measured"
    settings = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
    call("train", phantom_prepared, "--out", run, "--config", name, "--device", "cpu", *settings)
    call("evaluate", run, phantom_prepared, "--out", measured, "--device", "cpu", "--resamples", 5)
    metrics = read_json(measured / "metrics.json")
    classes = load_settings(run).classes
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
