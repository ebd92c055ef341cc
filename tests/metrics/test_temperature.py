from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from busi_monai.metrics import classification_scores, fit_temperature, rescale_probabilities

RANDOM = np.random.default_rng(0)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.from_numpy(logits).softmax(dim=1).numpy()


def drawn(temperature: float, images: int = 4000) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Classes drawn from the softmax of logits / temperature, and the softmax of the logits."""
    logits = RANDOM.normal(scale=2.0, size=(images, 3))
    true = [RANDOM.choice(3, p=row) for row in softmax(logits / temperature)]
    return np.array(true), softmax(logits)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_classes_is_found(temperature: float) -> None:
    true, probabilities = drawn(temperature)
    assert fit_temperature(true, probabilities) == pytest.approx(temperature, rel=0.08)


def test_it_is_the_minimum_that_torchs_loss_has_on_a_grid() -> None:
    true, probabilities = drawn(1.8, images=300)
    found = fit_temperature(true, probabilities)
    logits, labels = torch.from_numpy(np.log(probabilities)), torch.from_numpy(true)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    losses = [float(torch.nn.functional.cross_entropy(logits / t, labels)) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.003)


def test_rescaling_is_dividing_the_logits() -> None:
    logits = RANDOM.normal(size=(50, 3))
    for temperature in (0.3, 1.0, 4.0):
        rescaled = rescale_probabilities(softmax(logits), temperature)
        assert rescaled == pytest.approx(softmax(logits / temperature), abs=1e-12)


def test_rescaling_there_and_back_changes_nothing() -> None:
    _, probabilities = drawn(1.0, images=20)
    back = rescale_probabilities(rescale_probabilities(probabilities, 3.0), 1 / 3.0)
    assert back == pytest.approx(probabilities, abs=1e-12)


def test_a_fitted_temperature_lowers_the_calibration_error() -> None:
    true, probabilities = drawn(3.0)
    fitted = rescale_probabilities(probabilities, fit_temperature(true, probabilities))
    before = classification_scores(true, probabilities, true)["ece"]
    assert before > 0.1 and classification_scores(true, fitted, true)["ece"] < 0.03


def test_certain_probabilities_stay_finite() -> None:
    sure = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert 0.05 <= fit_temperature([0, 1, 1], sure) <= 20
    assert np.isfinite(rescale_probabilities(sure, 2.0)).all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        fit_temperature([], np.zeros((0, 3)))
    with pytest.raises(ValueError, match="are these logits"):
        fit_temperature([0], [[3.0, -1.0]])
    with pytest.raises(ValueError, match="above 0, got 0"):
        rescale_probabilities([[0.5, 0.5]], 0)
