from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from busi_monai.errors import InputError
from busi_monai.files import file_sha256
from busi_monai.label_app.served import ServedModel
from busi_monai.label_app.uncertainty_cache import UncertaintyCache, describe, farthest_from


@pytest.fixture
def model(tiny_bundle: Path, tmp_path: Path) -> ServedModel:
    return ServedModel(tmp_path / "model", tiny_bundle, "cpu")


def test_a_published_run_is_served_by_every_process(
    model: ServedModel, tiny_bundle: Path, tiny_run: Path, tmp_path: Path
) -> None:
    other = ServedModel(tmp_path / "model", tiny_bundle, "cpu")
    first, version = other.predictor(), other.version()
    assert first is other.predictor() and first.bundle == tiny_bundle
    model.publish(tiny_run, training=3)
    assert other.predictor().bundle == tiny_run and other.version() != version
    assert other.identity() == {
        "run": tiny_run.name,
        "weights_sha256": file_sha256(tiny_run / "models/model.pt"),
    }


def test_other_weights_in_the_same_folder_are_loaded_anew(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    model = ServedModel(tmp_path / "model", bundle, "cpu")
    first = model.predictor()
    weights = bundle / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes())
    assert model.predictor() is not first


def test_a_run_that_is_gone_is_named(model: ServedModel, tiny_run: Path, tmp_path: Path) -> None:
    gone = Path(shutil.copytree(tiny_run, tmp_path / "gone"))
    model.publish(gone)
    shutil.rmtree(gone)
    with pytest.raises(InputError, match=r"gone.*delete .*served\.json"):
        model.predictor()


def test_appraisals_are_kept_and_begun_anew_with_other_weights(
    model: ServedModel, tiny_run: Path, studies: Path, tmp_path: Path
) -> None:
    (studies / "broken.png").write_bytes(b"")
    image_paths = {path.stem: path for path in sorted(studies.glob("*.png"))[:4]}
    image_paths["broken"] = studies / "broken.png"
    uncertainties = UncertaintyCache(model, tmp_path / "uncertainties.json")
    known = uncertainties.fill(image_paths, limit=2)
    assert len(known) == 2
    known = uncertainties.fill(image_paths)
    assert set(known) == set(image_paths) and "0 bytes" in known["broken"]["error"]
    expected = model.predictor().uncertainty(image_paths["benign (1)"])
    assert known["benign (1)"]["score"] == pytest.approx(expected.score, abs=1e-6)
    assert UncertaintyCache(model, tmp_path / "uncertainties.json").known() == known
    model.publish(tiny_run)
    assert uncertainties.known() == {}


def test_a_image_that_changed_is_appraised_anew(
    model: ServedModel, studies: Path, tmp_path: Path
) -> None:
    uncertainties = UncertaintyCache(model, tmp_path / "uncertainties.json")
    path = studies / "benign (1).png"
    first = uncertainties.fill({"x": path})["x"]
    path.write_bytes((studies / "malignant (1).png").read_bytes())
    assert uncertainties.fill({"x": path})["x"]["descriptor"] != first["descriptor"]


def test_a_damaged_file_of_appraisals_is_no_obstacle(model: ServedModel, tmp_path: Path) -> None:
    (tmp_path / "uncertainties.json").write_text("{")
    assert UncertaintyCache(model, tmp_path / "uncertainties.json").known() == {}


def test_equal_images_lie_together_and_others_apart(model: ServedModel, studies: Path) -> None:
    predictor = model.predictor()

    def place(path: Path) -> np.ndarray:
        from busi_monai.io.images import read_image

        return describe(predictor.predict(path), read_image(path).pixels)

    one, other = place(studies / "benign (1).png"), place(studies / "normal (1).png")
    assert one.shape == (3 + 64 + 64,)
    assert np.array_equal(one, place(studies / "benign (1).png"))
    assert np.linalg.norm(one - other) > 0.01
    for part in (one[:3], one[3:67], one[67:]):
        assert np.linalg.norm(part) <= 1


def test_farthest_first_covers_every_cluster() -> None:
    generator = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    points = {
        f"{cluster}-{n}": centre + generator.normal(scale=0.2, size=2)
        for cluster, centre in enumerate(centres)
        for n in range(5)
    }
    chosen: list[str] = []
    for _ in range(4):
        rest = {name: point for name, point in points.items() if name not in chosen}
        found = farthest_from(rest, [points[name] for name in chosen])
        assert found is not None
        chosen.append(found[0])
    # the first is the most typical; the next three lie in three corners
    assert len({name.split("-")[0] for name in chosen[1:]}) == 3
    assert farthest_from({}, []) is None
