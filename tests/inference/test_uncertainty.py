from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from busi_monai.inference import Prediction, Predictor, disagreement
from busi_monai.io.images import read_image
from busi_monai.networks import EnsembleNetwork


def test_views_are_the_image_and_its_mirror_image(predictor: Predictor, image: Path) -> None:
    pixels = read_image(image).pixels

    straight, mirrored = predictor.views(image)

    plain = Predictor.load(predictor.bundle, tta_flip=False)
    assert straight.probabilities == pytest.approx(plain.predict(pixels).probabilities, abs=1e-6)
    of_mirror = plain.predict(pixels[:, ::-1])
    assert mirrored.probabilities == pytest.approx(of_mirror.probabilities, abs=1e-6)
    assert np.array_equal(mirrored.mask, of_mirror.mask[:, ::-1])


def test_a_symmetric_image_has_a_sure_class_and_mirrored_masks(predictor: Predictor) -> None:
    half = np.random.default_rng(0).random((70, 48)).astype(np.float32)
    symmetric = np.concatenate([half, half[:, ::-1]], axis=1)

    straight, mirrored = predictor.views(symmetric)

    assert straight.probabilities == pytest.approx(mirrored.probabilities, abs=1e-5)
    of_mirror = mirrored.lesion_probability[:, ::-1]
    assert np.allclose(straight.lesion_probability, of_mirror, atol=1e-4)
    assert predictor.uncertainty(symmetric).class_disagreement == pytest.approx(0, abs=1e-5)
    assert predictor.uncertainty(symmetric).views == 2


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
    ensemble.network = EnsembleNetwork([predictor.network] * 3, [1.0, 1.0, 2.0]).eval()

    views = ensemble.views(image)

    straight = predictor.views(image)[0]
    assert len(views) == 6
    assert views[0].probabilities == pytest.approx(straight.probabilities, abs=1e-6)
    softened = views[4].probabilities
    assert max(softened.values()) < max(straight.probabilities.values())
