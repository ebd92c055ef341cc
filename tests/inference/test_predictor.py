from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from busi_monai.errors import ImageReadError, InputError, WeightsError
from busi_monai.inference import Prediction, Predictor, disagreement
from busi_monai.io.images import read_image, write_png
from busi_monai.networks import EnsembleNetwork


def same(a: Prediction, b: Prediction) -> bool:
    return (
        np.array_equal(a.mask, b.mask)
        and np.array_equal(a.lesion_probability, b.lesion_probability)
        and a.probabilities == b.probabilities
        and a.predicted_class == b.predicted_class
    )


def test_prediction_is_at_native_size_and_consistent(predictor, image):
    found = predictor.predict(image)
    assert found.mask.shape == found.lesion_probability.shape == (70, 110)
    assert found.mask.dtype == np.uint8 and set(np.unique(found.mask)) <= {0, 1}
    assert 0 < found.lesion_pixels < found.mask.size, "an untrained network with a mixed mask"
    assert np.array_equal(found.mask > 0, found.lesion_probability >= 0.5)
    assert found.lesion_fraction == found.lesion_pixels / (70 * 110)
    x, y, width, height = found.box
    assert found.mask[y : y + height, x : x + width].sum() == found.lesion_pixels
    assert list(found.probabilities) == ["normal", "benign", "malignant"]
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.confidence == max(found.probabilities.values())
    assert found.seconds > 0
    assert found.as_dict()["size"] == [70, 110]


def test_a_path_and_its_pixels_give_the_same(predictor, image):
    by_path = predictor.predict(image)
    assert same(by_path, predictor.predict(str(image)))
    pixels = read_image(image).pixels
    assert same(by_path, predictor.predict(pixels))
    grey = np.round(pixels * 255).astype(np.uint8)
    assert same(by_path, predictor.predict(grey))
    assert same(by_path, predictor.predict(np.stack([grey] * 3, axis=-1)))


def test_batches_give_what_single_images_give(predictor, image, tmp_path):
    pixels = np.round(read_image(image).pixels * 255).astype(np.uint8)
    write_png(tmp_path / "turned.png", np.ascontiguousarray(pixels.T))
    sources = [image, tmp_path / "turned.png", image]
    single = [p for _, p in predictor.predict_many(sources)]
    for size in (2, 3, 8):
        for one, other in zip(
            single, predictor.predict_many(sources, batch_size=size), strict=True
        ):
            assert np.array_equal(one.mask, other[1].mask)
            assert other[1].probabilities == pytest.approx(one.probabilities, abs=1e-6)


def test_a_mirrored_image_gets_the_mirrored_mask(predictor, image):
    # flip averaging is on: this fails if mask and image are ever turned apart
    pixels = read_image(image).pixels
    straight = predictor.predict(pixels)
    mirrored = predictor.predict(np.ascontiguousarray(pixels[:, ::-1]))
    np.testing.assert_allclose(
        mirrored.lesion_probability[:, ::-1], straight.lesion_probability, atol=1e-5
    )
    assert mirrored.probabilities == pytest.approx(straight.probabilities, abs=1e-5)


def test_many_goes_on_past_bad_files_in_order(predictor, image, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    whole = image.read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    sources = [tmp_path / "empty.png", image, tmp_path / "half.png", image, tmp_path / "no.png"]
    for size in (1, 3):
        results = list(predictor.predict_many(sources, batch_size=size))
        assert [source for source, _ in results] == sources
        kinds = [type(result) for _, result in results]
        assert kinds == [ImageReadError, Prediction, ImageReadError, Prediction, ImageReadError]
        assert "empty.png" in str(results[0][1]) and "0 bytes" in str(results[0][1])


def test_pixels_that_are_no_image_are_told(predictor):
    with pytest.raises(ImageReadError):
        predictor.predict(np.zeros((3, 4, 5, 6)))


def test_batch_size_must_be_positive(predictor):
    with pytest.raises(InputError, match="batch_size"):
        list(predictor.predict_many([], batch_size=0))


def test_reduced_precision_is_close(tiny_bundle, predictor, image):
    reduced = Predictor.load(tiny_bundle, device="cpu", precision="bf16").predict(image)
    full = predictor.predict(image)
    assert reduced.probabilities == pytest.approx(full.probabilities, abs=0.02)
    assert reduced.probabilities != full.probabilities


def test_provenance_names_weights_device_and_precision(predictor):
    told = predictor.provenance()
    assert len(told["weights_sha256"]) == 64
    assert told["device"] == {"name": "cpu", "reason": "asked for"}
    assert told["precision"]["name"] == "fp32"


@pytest.mark.parametrize(
    ("file", "change", "error", "message"),
    [
        ("models/model.pt", None, WeightsError, "train"),
        ("models/model.pt", "other", WeightsError, "another architecture"),
        ("configs/inference.yaml", "without id", InputError, "preprocessing"),
        ("configs/inference.yaml", "a: [1,\nb: }", InputError, r"inference\.yaml is not YAML"),
        ("settings.json", '{"aspect": "crop"}', InputError, "aspect must be one of"),
    ],
)
def test_a_bundle_that_cannot_be_used_is_told(
    file: str, change: str | None, error: type, message: str, tiny_bundle, tmp_path
):
    path = shutil.copytree(tiny_bundle, tmp_path / "copy") / file
    if change is None:
        path.unlink()
    elif change == "other":
        torch.save({"encoder.weight": torch.zeros(2)}, path)
    elif change == "without id":
        path.write_text(path.read_text("utf-8").replace("preprocessing:", "pre:", 1), "utf-8")
    else:
        path.write_text(change)
    with pytest.raises(error, match=message):
        Predictor.load(tmp_path / "copy", device="cpu")


def test_an_unknown_bundle_is_told(tmp_path):
    with pytest.raises(InputError, match="no bundle or run"):
        Predictor.load(tmp_path / "nowhere")


def test_asking_for_a_gpu_that_is_not_there_is_an_error(tiny_bundle):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="no CUDA device"):
        Predictor.load(tiny_bundle, device="cuda")


def test_views_are_the_image_and_its_mirror_image(predictor: Predictor, image: Path) -> None:
    pixels = read_image(image).pixels

    straight, mirrored = predictor.views(image)

    plain = Predictor.load(predictor.bundle, tta_flip=False)
    assert straight.probabilities == pytest.approx(plain.predict(pixels).probabilities, abs=1e-6)
    of_mirror = plain.predict(pixels[:, ::-1])
    assert mirrored.probabilities == pytest.approx(of_mirror.probabilities, abs=1e-6)
    assert np.array_equal(mirrored.mask, of_mirror.mask[:, ::-1])


def test_what_disagreement_is(prediction: Prediction) -> None:
    half = prediction.mask.copy()
    half[:20] = 0  # the lower half of the lesion
    other = replace(
        prediction,
        mask=half,
        probabilities={"normal": 0.1, "benign": 0.4, "malignant": 0.5},
    )

    found = disagreement([prediction, other])

    assert found.class_disagreement == pytest.approx(0.3)
    assert found.mask_disagreement == pytest.approx(1 - 2 / 3)
    assert found.score == pytest.approx((0.3 + 1 / 3) / 2)


def test_heads_that_are_not_there_do_not_disagree(prediction: Prediction) -> None:
    segmenter = replace(prediction, probabilities={}, predicted_class=None)
    classifier = replace(prediction, has_mask=False, mask=prediction.mask * 0)

    assert disagreement([segmenter] * 2).class_disagreement is None
    assert disagreement([classifier] * 2).mask_disagreement is None
    assert disagreement([classifier] * 2).score == 0
    with pytest.raises(ValueError, match="at least two predictions, got 1"):
        disagreement([prediction])


def test_each_member_of_an_ensemble_has_its_views(predictor: Predictor, image: Path) -> None:
    ensemble = Predictor.load(predictor.bundle)
    ensemble._torch.network = EnsembleNetwork([predictor.network] * 3, [1.0, 1.0, 2.0]).eval()

    views = ensemble.views(image)

    straight = predictor.views(image)[0]
    assert len(views) == 6
    assert views[0].probabilities == pytest.approx(straight.probabilities, abs=1e-6)
    softened = views[4].probabilities
    assert max(softened.values()) < max(straight.probabilities.values())
