"""The weights that the default bundle ships: what they are, and that they do what they state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from busi_monai import Predictor
from busi_monai.bundle.shipped import find_bundle
from busi_monai.cases import CLASSES, SPLITS
from busi_monai.curation import Audit, PrepareOptions, load_datalist, prepare_dataset
from busi_monai.evaluation import read_predictions
from busi_monai.files import file_sha256, read_json
from busi_monai.phantoms import draw_phantom
from busi_monai.settings import SENSITIVITIES
from busi_monai.training import read_training_images, run_evaluation
from busi_monai.training.release import LARGEST

FIGURES = ("lesion_dice", "all_dice", "accuracy", "macro_f1", "auc_malignant", "ece")


@pytest.fixture(scope="module")
def bundle() -> Path:
    return find_bundle()


def test_the_weights_are_those_of_the_record(bundle: Path) -> None:
    weights = bundle / "models" / "model.pt"
    record = read_json(bundle / "run.json")
    assert record["weights_sha256"] == file_sha256(weights)
    assert weights.stat().st_size <= LARGEST
    for name in ("command", "commit", "seed", "datalist_sha256", "configuration_sha256"):
        assert record[name] is not None, name
    assert not record["commit"].endswith("-dirty")


def test_no_path_of_a_machine_is_shipped(bundle: Path) -> None:
    for path in (bundle / "run.json", bundle / "settings.json"):
        words = json.dumps(read_json(path))
        assert "/home/" not in words and "/work/" not in words and "/tmp/" not in words


def test_the_metadata_states_the_kept_figures(bundle: Path, repository: Path) -> None:
    stated = read_json(bundle / "configs" / "metadata.json")["eval_metrics"]
    assert set(stated) == {"busi_test", "bus_bra_test", "bus_uclm_test", "breast_external"}
    for part, figures in stated.items():
        name = part.rpartition("_")[0]
        kept = read_json(repository / "docs" / "results" / "released" / name / "metrics.json")
        for figure, value in figures.items():
            assert value == round(kept[figure]["value"], 3), (part, figure)


def test_thresholds_and_temperature_are_shipped() -> None:
    settings = Predictor.load(device="cpu").settings
    assert settings.temperature != 1.0 and settings.calibration["images"] > 100
    names = {f"sensitivity_{round(100 * value)}" for value in SENSITIVITIES}
    assert set(settings.operating_points) == names
    thresholds = [settings.operating_points[name].threshold for name in sorted(names)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_a_phantom_lesion_is_found_without_naming_a_bundle(phantom_prepared: Path) -> None:
    predictor = Predictor.load(device="cpu")
    lesions = [item for item in load_datalist(phantom_prepared).records() if item["class_label"]]
    found = [predictor.predict(phantom_prepared / item["image"]) for item in lesions[:6]]
    assert all(sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5) for one in found)
    assert sum(one.lesion_pixels > 0 for one in found) >= 3


def test_the_phantoms_of_the_page_get_the_class_that_their_names_say() -> None:
    predictor = Predictor.load(device="cpu")
    for seed, name in enumerate(CLASSES):
        pixels = draw_phantom(name, np.random.default_rng(seed), (240, 320)).pixels
        assert predictor.predict(pixels).predicted_class == name


@pytest.fixture(scope="module")
def datasets(
    busi_prepared: Path,
    real_bus_bra: Path,
    real_bus_uclm: Path,
    audit_of: Callable[[Path], Audit],
    once: Callable[..., Path],
    repository: Path,
) -> dict[str, Path]:
    """The datasets, prepared as for the released weights."""
    lists = {
        f"{split}_list": repository / "docs" / "results" / "released" / f"bus_bra_{split}.txt"
        for split in SPLITS[:3]
    }
    options = {
        "bus_bra": (real_bus_bra, PrepareOptions(protocol="file", **lists)),
        "bus_uclm": (real_bus_uclm, PrepareOptions()),
    }
    made = {
        name: once(
            f"released {name}",
            lambda out, source=source, how=how: prepare_dataset(
                source, out, how, audit=audit_of(source)
            ),
        )
        for name, (source, how) in options.items()
    }
    return {"busi": busi_prepared, **made}


@pytest.mark.realdata
def test_no_test_image_was_trained_on(bundle: Path, datasets: dict[str, Path]) -> None:
    seen = read_training_images(bundle)
    assert seen
    record = read_json(bundle / "run.json")
    for prepared in datasets.values():
        datalist = load_datalist(prepared)
        assert datalist.sha256 in record["datalist_sha256"]
        assert {item["sha256"] for item in datalist.training} <= seen
        for part in (datalist.validation, datalist.test):
            assert not {item["sha256"] for item in part} & seen


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["busi", "bus_bra", "bus_uclm"])
def test_the_stated_figures_come_out_again(
    bundle: Path, datasets: dict[str, Path], repository: Path, tmp_path: Path, name: str
) -> None:
    out = run_evaluation(
        bundle, [datasets[name]], tmp_path / "out", split="test", fold=None,
        overrides={"device_name": "cpu", "overlays": False},
    )  # fmt: skip
    kept = repository / "docs" / "results" / "released" / name
    found, stated = (read_json(folder / "metrics.json") for folder in (out, kept))
    for figure in FIGURES:
        value = stated[figure]["value"]
        if value is not None:
            assert found[figure]["value"] == pytest.approx(value, abs=0.005), figure
    tables = [read_predictions(folder).set_index("id") for folder in (out, kept)]
    assert set(tables[0].index) == set(tables[1].index)
    difference = (tables[0]["p_malignant"] - tables[1]["p_malignant"]).abs()
    assert difference.max() < 0.02
