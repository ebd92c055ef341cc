"""Small images in which every direction looks different."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def textured() -> Callable[..., NDArray[np.float32]]:
    """Makes noise that grows brighter downwards and, more steeply, to the right."""

    def draw(size: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        rows, columns = np.mgrid[: size[0], : size[1]]
        ramp = 0.2 * rows / size[0] + 0.5 * columns / size[1]
        noise = np.random.default_rng(seed).random(size)
        return (ramp + 0.3 * noise).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def ellipse() -> Callable[..., NDArray[np.bool_]]:
    """Makes a filled ellipse; centre and radii as (row, column)."""

    def draw(
        size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]
    ) -> NDArray[np.bool_]:
        rows, columns = np.mgrid[: size[0], : size[1]]
        distance = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2
        return distance <= 1

    return draw


@pytest.fixture
def item(
    textured: Callable[..., NDArray[np.float32]], ellipse: Callable[..., NDArray[np.bool_]]
) -> dict[str, torch.Tensor]:
    """An image of 40×64 pixels and the mask of one lesion right of the middle."""
    lesion = ellipse((40, 64), centre=(15, 40), radii=(8, 14))
    return {
        "image": torch.from_numpy(textured((40, 64)))[None],
        "label": torch.from_numpy(lesion.astype(np.float32))[None],
    }
