from __future__ import annotations

import json

from click.testing import CliRunner

from busi_monai.bundle.shipped import shipped_bundles, shipped_configs
from busi_monai.cli.main import main
from busi_monai.curation import PROTOCOLS
from busi_monai.curation.datalist import shipped_splits
from busi_monai.datasets import READERS
from busi_monai.networks import ENCODERS, POOLINGS


def test_json_is_made_from_the_registries():
    result = CliRunner().invoke(main, ["info", "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["datasets"] == list(READERS)
    assert content["protocols"] == list(PROTOCOLS)
    assert content["encoders"] == sorted(ENCODERS)
    assert content["poolings"] == list(POOLINGS)
    assert set(content["bundles"]) == set(shipped_bundles())
    assert set(content["configs"]) == set(shipped_configs())
    assert set(content["splits"]) == set(shipped_splits())
    assert content["losses"]["classification"]
    assert content["versions"]["python"]


def test_text_names_everything_and_the_limits():
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0, result.output
    assert "train PREPARED --out RUN" in result.stdout
    for name in [*READERS, *PROTOCOLS, *shipped_splits(), *ENCODERS, "research use only"]:
        assert name in result.stdout
