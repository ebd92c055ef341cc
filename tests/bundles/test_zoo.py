"""The checks that the model zoo makes of a bundle, for the shipped ones and for runs of them."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out
from packaging.requirements import Requirement

from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.inference import Predictor

TWO_STAGE = "breast_ultrasound_two_stage"
TRAINING = {
    DEFAULT_BUNDLE: ("train.yaml",),
    TWO_STAGE: ("train_segmentation.yaml", "train_classification.yaml"),
}
SECTIONS = (
    "# Model overview",
    "# Data",
    "# Training configuration",
    "# Performance",
    "# System configuration",
    "# MONAI bundle commands",
    "# Limitations",
    "# Disclaimer",
    "# References",
    "# License",
)


@pytest.fixture(params=[DEFAULT_BUNDLE, "tiny_run", TWO_STAGE, "two_stage_run"])
def bundle(request: pytest.FixtureRequest) -> Path:
    name = request.param
    return find_bundle(name) if name in TRAINING else request.getfixturevalue(name)


def metadata_of(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def test_layout(bundle: Path, request: pytest.FixtureRequest) -> None:
    staged = "two_stage" in request.node.callspec.params["bundle"]
    training = TRAINING[TWO_STAGE if staged else DEFAULT_BUNDLE]
    for name in (*training, "evaluate.yaml", "inference.yaml", "metadata.json", "logging.conf"):
        assert (bundle / "configs" / name).is_file(), name
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "settings.json"):
        assert (bundle / name).read_text(encoding="utf-8").strip(), name
    assert "Apache License" in (bundle / "LICENSE").read_text(encoding="utf-8")
    for weights in (bundle / "models").glob("*.pt"):
        assert weights.name == "last.pt" or weights.stat().st_size < 25e6


def test_the_readme_has_the_zoos_sections(bundle: Path) -> None:
    lines = (bundle / "docs" / "README.md").read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("# ")]
    assert headings == list(SECTIONS)
    assert "not a medical device" in " ".join(lines)


def test_metadata_fits_the_schema(bundle: Path, repository: Path, tmp_path: Path) -> None:
    # the schema lies where MONAI would download it to, so that it asks no server
    schema = tmp_path / "schema.json"
    schema.write_bytes((repository / "tests" / "bundles" / "metadata_schema.json").read_bytes())
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))


def test_the_schema_finds_a_missing_key(repository: Path, tmp_path: Path) -> None:
    metadata = metadata_of(find_bundle())
    del metadata["intended_use"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    schema = tmp_path / "schema.json"
    schema.write_bytes((repository / "tests" / "bundles" / "metadata_schema.json").read_bytes())
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(schema))


def test_the_version_is_in_the_changelog_and_the_packages(bundle: Path) -> None:
    metadata = metadata_of(bundle)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["busi-monai"] == version("busi-monai")
    default = metadata_of(find_bundle())
    for name in ("monai_version", "pytorch_version", "required_packages_version"):
        assert metadata[name] == default[name]


def test_the_stated_versions_are_those_that_the_project_asks_for(repository: Path) -> None:
    metadata = metadata_of(find_bundle())
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {Requirement(text).name.lower(): Requirement(text) for text in project["dependencies"]}
    constraints = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.lower().split("==") for line in constraints if "==" in line)
    stated = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    assert stated.pop("busi-monai") == project["version"]
    for name, found in stated.items():
        assert asked[name].specifier.contains(found), name
        assert pinned[name] == found, name


def test_the_default_bundle_names_the_task_for_monai_label() -> None:
    # MONAI Label guesses the task from the folder's name
    assert "segmentation" in DEFAULT_BUNDLE


@pytest.mark.parametrize("config", ["train", "inference"])
def test_the_network_fits_the_metadata(bundle: Path, config: str) -> None:
    if not (bundle / "configs" / f"{config}.yaml").is_file():
        pytest.skip("a stage's training is an overlay of the default bundle's")
    verify_net_in_out(
        net_id="network_def_seg",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / f"{config}.yaml"),
        device="cpu",
    )


@pytest.mark.parametrize("name", ["tiny_run", "two_stage_run"])
def test_a_run_exports_to_torchscript(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(name)
    configs = run / "configs"
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(run / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
    )
    image = torch.rand(3, 1, 64, 96)
    scripted = torch.jit.load(str(tmp_path / "model.ts")).eval()(image)
    network = Predictor.load(run, device="cpu").network(image)
    for head in ("seg", "cls"):
        torch.testing.assert_close(scripted[head], network[head], atol=1e-5, rtol=1e-5)
