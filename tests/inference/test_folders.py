from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.errors import InputError
from busi_monai.evaluation import read_predictions
from busi_monai.inference import predict
from busi_monai.io.image_files import MAX_ID_BYTES
from busi_monai.io.images import read_mask


def test_every_image_gets_the_predictors_own_mask(tiny_bundle, predictor, image, tmp_path):
    summary = predict([image], tmp_path / "out", model=tiny_bundle, device="cpu")
    alone = predictor.predict(image)
    (row,) = read_predictions(tmp_path / "out").to_dict("records")
    assert np.array_equal(read_mask(tmp_path / "out" / "masks" / f"{row['id']}.png"), alone.mask)
    assert row["predicted_class"] == alone.predicted_class
    assert row["p_malignant"] == pytest.approx(alone.probabilities["malignant"], abs=1e-6)
    assert summary.predicted == 1 and summary.classes[alone.predicted_class] == 1
    assert summary.with_lesion == 1 and summary.failures == []
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["weights_sha256"] == predictor.provenance()["weights_sha256"]
    assert record["device"]["name"] == "cpu" and record["precision"]["reason"]


def test_images_of_one_name_from_two_folders_are_both_there(tiny_bundle, image, tmp_path):
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        Image.open(image).save(tmp_path / folder / "scan.png")
    inputs = [tmp_path / "left", tmp_path / "right"]
    predict(inputs, tmp_path / "out", model=tiny_bundle, device="cpu", batch_size=2)
    masks = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert masks == ["left__scan.png", "right__scan.png"]


def test_nothing_predicted_replaces_nothing(tiny_bundle, image, tmp_path):
    predict([image], tmp_path / "out", model=tiny_bundle, device="cpu")
    summary = predict(
        [tmp_path / "missing.png"],
        tmp_path / "out",
        model=tiny_bundle,
        device="cpu",
        overwrite=True,
    )
    assert summary.out is None and len(summary.failures) == 1
    assert len(read_predictions(tmp_path / "out")) == 1


def test_ctrl_c_leaves_the_previous_result(tiny_bundle, image, tmp_path):
    options = {"model": tiny_bundle, "device": "cpu", "overwrite": True}
    predict([image], tmp_path / "out", **options)
    before = (tmp_path / "out" / "predictions.csv").read_bytes()

    def interrupted(items, total):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict([image], tmp_path / "out", progress=interrupted, **options)
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_the_previous_result(tiny_bundle, image, tmp_path, monkeypatch):
    options = {"model": tiny_bundle, "device": "cpu", "overwrite": True}
    predict([image], tmp_path / "out", **options)
    before = (tmp_path / "out" / "predictions.csv").read_bytes()

    def full(pixels: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("busi_monai.inference.writers.encode_png", full)
    with pytest.raises(OSError, match="No space left"):
        predict([image], tmp_path / "out", **options)
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_input_at_all_is_wrong_usage(tmp_path):
    with pytest.raises(InputError, match="no input"):
        predict([], tmp_path / "out")


@pytest.mark.parametrize("name", [b"l\xe4sion.png", b"two\nlines.png", 249 * b"x" + b".png"])
def test_a_name_that_some_system_refuses_ends_no_batch(
    name: bytes, tiny_bundle, image, tmp_path: Path
) -> None:
    try:
        shutil.copy(image, tmp_path / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system refuses the name")
    shutil.copy(image, tmp_path / "ok.png")
    summary = predict([tmp_path], tmp_path / "out", model=tiny_bundle, device="cpu")
    assert summary.predicted == 2 and summary.failures == []
    rows = read_predictions(tmp_path / "out").to_dict("records")
    for row in rows:
        assert row["id"].isprintable() and len(row["id"].encode()) <= MAX_ID_BYTES
        assert (tmp_path / "out" / "masks" / f"{row['id']}.png").is_file()
