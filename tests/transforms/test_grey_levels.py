from __future__ import annotations

import pytest
import torch

from busi_monai.transforms.grey_levels import (
    add_gaussian_noise,
    add_speckle,
    adjust_contrast,
    adjust_gamma,
    speckle_field,
)


def test_gamma() -> None:
    image = torch.tensor([[[0.0, 0.25, 1.0]]])
    assert adjust_gamma(image, 1).tolist() == image.tolist()
    assert adjust_gamma(image, 0.5).tolist() == [[[0, 0.5, 1]]]
    assert adjust_gamma(torch.tensor([[[-0.5, 1.5]]]), 0.7).tolist() == [[[0, 1]]]


def test_contrast_keeps_the_mean_and_clips() -> None:
    image = torch.tensor([[[0.25, 0.75]]])
    assert adjust_contrast(image, 0).tolist() == [[[0.5, 0.5]]]
    assert adjust_contrast(image, 1.5).tolist() == [[[0.125, 0.875]]]
    assert adjust_contrast(image, 9).tolist() == [[[0, 1]]]


def test_no_noise() -> None:
    image = torch.rand(1, 5, 5)
    assert torch.equal(add_gaussian_noise(image, torch.zeros(1, 5, 5)), image)
    assert torch.equal(add_speckle(image, torch.zeros(1, 5, 5)), image)


def test_constant_noise() -> None:
    image = torch.tensor([[[0.0, 0.5, 1.0]]])
    field = torch.full((1, 1, 3), 0.5)
    assert add_gaussian_noise(image, field).tolist() == [[[0.5, 1, 1]]]
    assert add_speckle(image, field).tolist() == [[[0, 0.75, 1]]]


@pytest.mark.parametrize("grain", [1, 2, 3])
def test_speckle_has_the_grain_asked_for(grain: int) -> None:
    field = speckle_field((120, 150), grain=grain, generator=torch.Generator().manual_seed(0))[0]
    assert field.shape == (120, 150)
    assert abs(float(field.mean())) < 0.05
    assert 0.55 < float(field.std()) < 1.05
    neighbours = float(
        torch.corrcoef(torch.stack([field[:, 1:].ravel(), field[:, :-1].ravel()]))[0, 1]
    )
    assert neighbours < 0.05 if grain == 1 else neighbours > 0.3 * (grain - 1)
