from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from busi_monai.bundle import shipped
from busi_monai.errors import InputError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder beside its checkout's bundles and configs, with one of each."""
    folder = tmp_path / "busi_monai"
    folder.mkdir()
    _ship(tmp_path, "net")
    monkeypatch.setattr(shipped, "_PACKAGE", folder)
    return folder


def _ship(place: Path, name: str) -> None:
    configs = place / "bundles" / name / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text("{}")
    (configs / "inference.yaml").write_text("")
    (place / "configs").mkdir()
    (place / "configs" / f"{name}.yaml").write_text("")


def test_a_checkout_ships_what_lies_beside_the_package(package: Path) -> None:
    root = package.parent
    assert shipped.shipped_bundles() == {"net": root / "bundles" / "net"}
    assert shipped.shipped_configs() == {"net": root / "configs" / "net.yaml"}


def test_a_wheel_ships_what_lies_within_the_package(package: Path) -> None:
    _ship(package / "_shipped", "wheel")
    assert shipped.shipped_bundles() == {"wheel": package / "_shipped" / "bundles" / "wheel"}
    assert set(shipped.shipped_configs()) == {"wheel"}


def test_a_folder_without_metadata_is_no_bundle(package: Path) -> None:
    (package.parent / "bundles" / "notes").mkdir()
    assert set(shipped.shipped_bundles()) == {"net"}


def test_configs_are_found_by_name_and_by_path(package: Path, tmp_path: Path) -> None:
    own = tmp_path / "my own.yaml"
    own.write_text("")
    assert shipped.find_config("net") == package.parent / "configs" / "net.yaml"
    assert shipped.find_config(own) == own


def test_an_unknown_config_is_refused_with_the_known_ones(package: Path) -> None:
    with pytest.raises(InputError, match=r"no configuration 'gpu9'; expected a YAML file.*net"):
        shipped.find_config("gpu9")


def test_bundles_are_found_by_name_and_by_path(package: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    shutil.copytree(package.parent / "bundles" / "net", run)
    assert shipped.find_bundle("net") == package.parent / "bundles" / "net"
    assert shipped.find_bundle(run) == run


def test_what_is_no_bundle_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no bundle or run 'none'.*net"):
        shipped.find_bundle("none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"not a bundle: configs/inference\.yaml is missing"):
        shipped.find_bundle(tmp_path / "empty")


def test_this_checkout_ships_the_default_bundle() -> None:
    assert shipped.find_bundle().name == shipped.DEFAULT_BUNDLE
